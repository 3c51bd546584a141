// Runs a few nodes by themselves for the Pose Editor, beside the page's own runs: what the editor asks of the server.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const EDITOR = "RePoseDMPoseEditor", ESTIMATE = "RePoseDMEstimatePose", LOADER = "RePoseDMEstimatorLoader";
const SINK = "pose-editor";
const PAUSE = 300;  // milliseconds between two looks at a run
const MOST_PEOPLE = 10, THRESHOLD = 0.3;

async function request(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await api.fetchApi(path, options);
  const data = await answer.json().catch(() => ({}));
  if (answer.ok) return data;
  const [first] = Object.values(data.node_errors ?? {}).flatMap(({ errors }) => errors);
  throw new Error([first?.message ?? data.error?.message ?? answer.statusText, first?.details].filter(Boolean).join(": "));
}

/**
 * A run of the server, apart from the page: { result, cancel }, result the `ui` of the editor at the end of the prompt
 * (or of its promise).
 */
export function runNodes(asked) {
  let [id, cancelled] = [null, false];
  const result = (async () => {
    const prompt = await asked;
    if (!prompt) throw new Error("Connect a picture to the input image first.");
    id = (await request("/prompt", { prompt })).prompt_id;
    for (;;) {
      if (cancelled) throw new Error("Cancelled.");
      const { [id]: done } = await request(`/history/${id}`);
      if (done) {
        const failure = done.status?.messages?.find(([kind]) => kind === "execution_error")?.[1];
        if (failure) throw new Error(failure.exception_message.trim());
        const shown = done.outputs?.[SINK];
        if (!shown) throw new Error("The run was stopped.");
        return shown;
      }
      const { queue_running: running, queue_pending: pending } = await request("/queue");
      const waits = [...running, ...pending].some(([, other]) => other === id);
      // Between the queue and the history there is a moment; once more, then.
      if (!waits && !(await request(`/history/${id}`))[id]) throw new Error("The run was taken off the queue.");
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  })();
  const cancel = async () => {
    cancelled = true;
    if (!id) return;
    await request("/queue", { delete: [id] }).catch(() => {});
    const { queue_running: running } = await request("/queue");
    if (running.some(([, other]) => other === id)) await request("/interrupt", { prompt_id: id }).catch(() => {});
  };
  return { result, cancel };
}

/** The nodes that an input needs, taken out of a prompt. */
function needed(prompt, link, found = {}) {
  const [id] = link;
  if (found[id] || !prompt[id]) return found;
  found[id] = prompt[id];
  for (const value of Object.values(prompt[id].inputs)) {
    if (Array.isArray(value) && prompt[value[0]]) needed(prompt, value, found);
  }
  return found;
}

/**
 * The prompt that finds the people in the picture of an editor; null where it has none.
 *
 * The estimator is that of the graph, where it has a Pose Estimator Loader, else the one that comes with the pack.
 */
export async function detection(editor, frame) {
  const { output } = await app.graphToPrompt();
  const picture = output[editor]?.inputs.image;
  if (!Array.isArray(picture)) return null;
  const loader = Object.values(output).find((node) => node.class_type === LOADER
    && !Object.values(node.inputs).some(Array.isArray));
  return {
    ...needed(output, picture),
    "pose-editor-loader": loader ?? { class_type: LOADER, inputs: await defaultsOf(LOADER) },
    "pose-editor-picture": { class_type: "ImageFromBatch", inputs: { image: picture, batch_index: frame, length: 1 } },
    "pose-editor-people": { class_type: ESTIMATE, inputs: { pose_estimator: ["pose-editor-loader", 0],
      image: ["pose-editor-picture", 0], threshold: THRESHOLD, people: MOST_PEOPLE } },
    [SINK]: sinkOf("pose-editor-people", { image: ["pose-editor-picture", 0] }),
  };
}

/** The prompt that reads a text as Load Pose does. */
export const reading = (text) => ({
  "pose-editor-text": { class_type: "RePoseDMLoadPose", inputs: { file: "none", text } },
  [SINK]: sinkOf("pose-editor-text", {}),
});

const sinkOf = (source, inputs) => ({ class_type: EDITOR, inputs: { width: 512, height: 512, pose: [source, 0], edit: "",
  ...inputs } });

/** The values that a node starts with. */
async function defaultsOf(kind) {
  const { [kind]: node } = await request(`/object_info/${kind}`);
  if (!node) throw new Error(`This ComfyUI has no ${kind}.`);
  return Object.fromEntries(Object.entries({ ...node.input.required, ...node.input.optional })
    .map(([name, [type, options]]) => [name, options?.default ?? (options?.options ?? type)[0]]));
}

/** Runs one node of the graph, and what it needs, as the page runs it. */
export const runNode = (execution) => app.queuePrompt(0, 1, [execution]);
