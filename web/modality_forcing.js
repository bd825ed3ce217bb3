// The one file that ComfyUI loads by itself: which widget belongs to which node.

import { attach, hideInput, register } from "./host.mjs";
import { cloudWidget } from "./widgets/cloud.mjs";
import { depthWidget } from "./widgets/depth.mjs";
import { scheduleWidget } from "./widgets/schedule.mjs";

register({
    ModalityForcingSchedule: (node) => attach(node, "schedule_picture", scheduleWidget(node)),
    ModalityForcingPreviewDepth: (node) => attach(node, "depth_preview", depthWidget(node)),
    ModalityForcingPreviewPointCloud: (node) => {
        hideInput(node, "screenshot");
        attach(node, "cloud_preview", cloudWidget(node));
    },
});
