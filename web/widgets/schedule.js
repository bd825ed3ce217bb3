// The schedule node's picture: follows the node's numbers, and sets log2_alpha when it is dragged.

import { givenModalities, inputValue, noteChange, setInput } from "../host.js";
import { LIMIT, log2AlphaThrough, replaces } from "../maths/schedule.js";
import { button, el, shield } from "../parts/elements.js";
import { schedulePicture } from "../parts/schedule_picture.js";
import { t } from "../parts/texts.js";

const CONDITIONS = { ModalityForcingImageCondition: "rgb", ModalityForcingDepthCondition: "depth" };
const presets = () => [
    [t("RGB first"), 5, t("log2_alpha 5: the image resolves first and depth follows; the released default, best depth")],
    [t("Together"), 0, t("log2_alpha 0: the diagonal, both at the same pace")],
    [t("Depth first"), -5, t("log2_alpha −5: depth resolves first and the image follows")],
];
const KEYS = { ArrowUp: 0.1, ArrowRight: -0.1, ArrowLeft: 0.1, ArrowDown: -0.1, PageUp: 1, PageDown: -1 };
const DEFAULTS = { steps: 50, shift: 1.1, log2_alpha: 5 };
// Typed, linked and undone values reach the node in ways that call nobody back: the picture looks by itself.
const LOOK_MS = 200;

export function scheduleWidget(node) {
    const picture = schedulePicture(drag, noteChange, press);
    const caption = el("div", { class: "mf-caption", role: "status" });
    const choices = presets();
    const buttons = choices.map(([text, value, title]) => button(text, title, () => choose(value, true)));
    const element = shield(el("div", { class: "mf-widget" },
        el("div", { class: "mf-row mf-presets" }, ...buttons), picture.element, caption));
    let drawn = "";
    let locked = false;

    function choose(value, finished) {
        if (locked) return;
        setInput(node, "log2_alpha", Math.round(Math.min(LIMIT, Math.max(-LIMIT, value)) * 10) / 10 || 0);
        look();
        if (finished) noteChange();
    }

    function drag(tRgb, tDepth) {
        choose(log2AlphaThrough(tRgb, tDepth), false);
    }

    function press(event) {
        const step = KEYS[event.key];
        if (!step) return;
        event.preventDefault();
        event.stopPropagation();
        choose(inputValue(node, "log2_alpha").value + step * (event.shiftKey ? 10 : 1), true);
    }

    function look() {
        const read = Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, inputValue(node, name)]));
        const given = givenModalities(node, CONDITIONS);
        const key = JSON.stringify([read, given]);
        if (key === drawn) return;
        drawn = key;
        locked = read.log2_alpha.linked;
        const value = (name) => (Number.isFinite(read[name].value) ? read[name].value : DEFAULTS[name]);
        picture.draw({
            steps: Math.max(1, Math.round(value("steps"))),
            mu: value("shift"),
            log2Alpha: value("log2_alpha"),
            given,
            locked,
            faded: replaces(given.rgb) || replaces(given.depth) || read.log2_alpha.value === undefined,
        });
        for (const [index, [, preset]] of choices.entries()) {
            buttons[index].disabled = locked;
            buttons[index].setAttribute("aria-pressed", value("log2_alpha") === preset);
        }
        caption.textContent = describe(read, given);
    }

    let timer = 0;

    function start() {
        look();
        timer = setInterval(look, LOOK_MS);
    }

    return { element, minHeight: 300, minWidth: 320, start, stop: () => clearInterval(timer) };
}

function describe({ steps, log2_alpha: alpha }, given) {
    if (replaces(given.rgb)) return t("The image is given: only depth is sampled, log2_alpha has no effect");
    if (replaces(given.depth)) return t("Depth is given: only the image is sampled");
    if (alpha.value === undefined) return t("log2_alpha comes from a link; its value is known when the graph runs");
    const pace = alpha.value > 0 ? t("the image leads, depth follows") : t("depth leads, the image follows");
    const source = alpha.linked ? ` ${t("(linked)")}` : "";
    return `log2_alpha ${alpha.value}${source} · ${alpha.value === 0 ? t("both at the same pace") : pace} · ${t("{n} steps", { n: steps.value ?? "?" })}`;
}
