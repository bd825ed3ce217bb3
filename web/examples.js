// The pack's example pictures. A workflow of ours that loads one finds it in ComfyUI's input folder: what is missing
// there is put there when such a workflow is opened, as the frontend itself does for its own templates, and is said.

import { isInInputs, onOpening, say, uploadPicture, workflowFile } from "./host.js";
import { t } from "./parts/texts.js";
import { savedNodes } from "./saved_nodes.js";

const EXAMPLE = /^modality_forcing_(scene|depth)(_hole|_16bit|_sparse)?\.png$/;

export function offerExamples() {
    onOpening("Examples", async (workflow) => {
        const added = [];
        for (const name of examplesIn(workflow)) {
            if (await isInInputs(name)) continue;
            await uploadPicture(await workflowFile(`input/${name}`), name, "");
            added.push(name);
        }
        if (added.length) say(t("Example pictures of this workflow were put into ComfyUI's input folder: {names}", { names: added.join(", ") }));
        return added.length > 0;
    });
}

// The names of example pictures among the values of a saved workflow's nodes.
export function examplesIn(workflow) {
    const values = savedNodes(workflow).flatMap((node) => Object.values(node.widgets_values ?? []));
    return [...new Set(values.filter((value) => EXAMPLE.test(value)))];
}
