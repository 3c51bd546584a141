// Elements of the page, made in one call.

/** An element with properties, of which `testid` becomes a name for the tests, and children. */
export function make(kind, properties = {}, ...children) {
  const { testid, ...others } = properties;
  const element = Object.assign(document.createElement(kind), others);
  if (testid) element.dataset.testid = `pose-editor-${testid}`;
  element.append(...children);
  return element;
}
