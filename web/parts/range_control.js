// The two ends of the colours over a histogram of the depth, with two handles.

import { el } from "./elements.js";
import { t } from "./texts.js";

const STEPS = 1000;
const BINS = 160;
export const SAMPLES = 60000; // of the depth: enough for a histogram

// onInput(low, high, finished): shares 0..1 of the domain. Returns {element, set, drawHistogram}.
export function rangeControl(onInput) {
    const canvas = el("canvas", { width: BINS, height: 26, "aria-hidden": "true" });
    const handle = (label) => el("input", {
        type: "range", min: 0, max: STEPS, step: 1, "aria-label": label, title: label, oninput: () => changed(false), onchange: () => changed(true),
    });
    const ends = [handle(t("Near end of the colours")), handle(t("Far end of the colours"))];
    const element = el("div", { class: "mf-range" }, canvas, ...ends);

    function changed(finished) {
        onInput(...ends.map((end) => Number(end.value) / STEPS), finished);
    }

    function set(near, far) {
        ends[0].value = Math.round(near * STEPS);
        ends[1].value = Math.round(far * STEPS);
    }

    // shares: of each valid pixel, 0 near … 1 far in the domain; colourAt(share): a CSS colour.
    function drawHistogram(shares, colourAt) {
        const counts = histogram(shares);
        const highest = Math.max(1, ...counts);
        const context = canvas.getContext("2d");
        context.clearRect(0, 0, BINS, canvas.height);
        counts.forEach((count, bin) => {
            context.fillStyle = colourAt((bin + 0.5) / BINS);
            // The square root keeps small surfaces visible beside large ones.
            const height = 2 + (canvas.height - 2) * Math.sqrt(count / highest);
            context.fillRect(bin, canvas.height - height, 1, height);
        });
    }

    return { element, set, drawHistogram };
}

export function histogram(shares) {
    const counts = new Array(BINS).fill(0);
    for (const share of shares) {
        if (share >= 0 && share <= 1) counts[Math.min(BINS - 1, Math.floor(share * BINS))]++;
    }
    return counts;
}
