// Which files a node announced, which image of the batch is shown, and its data. Survives reloads with the workflow.

import { fetchFile, saveSetting, setting } from "../host.js";
import { parseGeometry } from "./geometry_file.js";

const RUN_FIRST = "Nothing to show yet.\nRun the graph.";
const GONE = "The last result is no longer on the server.\nRun the graph again.";

// view: {batch, state} of elements.js; onGeometry(geometry) when there is something to show.
export function resultLoader(node, view, onGeometry) {
    let files = [];
    let index = 0;
    let request = null;
    let shown = "";

    function result(announced) {
        saveSetting(node, "files", announced);
        open(announced, Math.min(index, announced.length - 1));
    }

    function restore() {
        const saved = setting(node, "files") ?? [];
        if (saved.length) open(saved, Math.min(setting(node, "index") ?? 0, saved.length - 1));
        else if (!files.length) view.state.show("empty", RUN_FIRST);
    }

    function choose(chosen) {
        saveSetting(node, "index", chosen);
        open(files, chosen);
    }

    async function open(announced, chosen) {
        files = announced;
        index = chosen;
        view.batch.set(index, files.length);
        const file = files[index];
        if (file.filename === shown) return;
        request?.abort();
        const own = request = new AbortController();
        view.state.show("loading", "Loading …");
        try {
            const bytes = await fetchFile(file, own.signal);
            if (own.signal.aborted) return;
            shown = bytes ? file.filename : "";
            if (!bytes) return view.state.show("empty", GONE);
            onGeometry(parseGeometry(bytes));
        } catch (error) {
            if (own.signal.aborted) return;
            shown = "";
            view.state.show("failed", `Could not show this: ${error.message}`);
        }
    }

    return { result, restore, choose, dispose: () => request?.abort() };
}
