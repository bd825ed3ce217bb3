// Our workflows open on the small model with the released one muted beside it. Older frontends ask for the files of muted
// loaders all the same: while a workflow of ours opens, what these loaders say about their files is put aside. It is
// there again afterwards, so that a loader that is switched on asks for its file when its workflow is opened.

import { MUTED, onOpening } from "./host.js";
import { savedNodes } from "./saved_nodes.js";

const ASIDE = "modality_forcing_models";

export function leaveMutedModelsAlone() {
    onOpening("MutedModels", putAside, putBack);
}

function putAside(workflow) {
    const nodes = savedNodes(workflow);
    if (!nodes.some((node) => node.type.startsWith("ModalityForcing"))) return;
    nodes.filter((node) => node.mode === MUTED).forEach(({ properties }) => rename(properties, "models", ASIDE));
}

function putBack(nodes) {
    nodes.forEach(({ properties }) => rename(properties, ASIDE, "models"));
}

function rename(properties, from, to) {
    if (!properties?.[from]) return;
    properties[to] = properties[from];
    delete properties[from];
}
