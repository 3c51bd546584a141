// Graphs that were saved before Pose Interaction Field Guidance had presets keep the values that they were saved with.

import { app } from "../../../scripts/app.js";

const NODE = "RePoseDMPoseFieldGuidance";
const CUSTOM = "custom";

app.registerExtension({
  name: "reposedm.guidancePreset",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return;
    const before = nodeType.prototype.onConfigure;
    nodeType.prototype.onConfigure = function (saved) {
      before?.call(this, saved);
      const index = this.widgets.findIndex(({ name }) => name === "preset");
      if (saved.widgets_values?.length === index) this.widgets[index].value = CUSTOM;
    };
  },
});
