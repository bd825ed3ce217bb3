// Which image of a result is shown, and its data. The last one asked for wins, whatever answers first.

import { parseGeometry } from "./geometry_file.js";
import { t } from "./texts.js";

// fetch(result, index, signal): bytes, or null where the server has them no longer.
// view: {show(kind, text), hide()}; onImage(image, index) when there is something to show; onNothing() when there is not.
export function resultLoader(fetch, view, onImage, onNothing = () => {}) {
    let wanted = null; // {result, index}
    let shown = ""; // key of what is shown
    let request = null;

    // Returns a promise that ends when it is shown, failed, or overtaken.
    async function open(result, index) {
        request?.abort();
        const own = request = new AbortController();
        wanted = { result, index };
        const key = `${result}/${index}`;
        if (key === shown) return view.hide();
        view.show("loading", t("Loading …"));
        try {
            const bytes = await fetch(result, index, own.signal);
            if (own.signal.aborted) return;
            if (!bytes) return nothing("empty", t("This result is no longer on the server.\nRun the graph again."));
            const image = parseGeometry(bytes);
            shown = key;
            view.hide();
            await onImage(image, index);
        } catch (error) {
            if (!own.signal.aborted) nothing("failed", t("Could not show this: {error}", { error: error.message }));
        }
    }

    function nothing(kind, text) {
        shown = "";
        onNothing();
        view.show(kind, text);
    }

    // No result: what is under way is not wanted any more.
    function clear() {
        request?.abort();
        wanted = null;
        nothing("empty", t("Nothing to show yet.\nRun the graph."));
    }

    // After a failure, when the connection is back.
    function retry() {
        if (wanted && !shown) open(wanted.result, wanted.index);
    }

    // Drops the data; what comes next is fetched again.
    function dispose() {
        request?.abort();
        wanted = null;
        shown = "";
    }

    return { open, clear, retry, dispose };
}
