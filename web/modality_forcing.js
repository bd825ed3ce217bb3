// The one file that does something when it is loaded (ComfyUI loads every .js): which widget belongs to which node.

import { offerExamples } from "./examples.js";
import { attach, hideInput, register } from "./host.js";
import { leaveMutedModelsAlone } from "./muted_models.js";
import { cloudWidget } from "./widgets/cloud.js";
import { depthWidget } from "./widgets/depth.js";
import { scheduleWidget } from "./widgets/schedule.js";

register({
    ModalityForcingSchedule: (node) => attach(node, "schedule_picture", scheduleWidget(node)),
    ModalityForcingPreviewDepth: (node) => {
        hideInput(node, "picked");
        attach(node, "depth_preview", depthWidget(node));
    },
    ModalityForcingPreviewPointCloud: (node) => {
        for (const name of ["screenshot", "view", "picked"]) hideInput(node, name);
        attach(node, "cloud_preview", cloudWidget(node));
    },
});

offerExamples();
leaveMutedModelsAlone();
