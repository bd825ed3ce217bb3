// Small DOM helpers. Listeners sit on elements of the widget alone, so they go with it.

import { t } from "./texts.js";

const FILM_MS = 100; // for each image, if it is there by then
const SVG = "http://www.w3.org/2000/svg";

// An element with attributes; keys that start with "on" are listeners, null and false leave an attribute out.
export function el(tag, attributes = {}, ...children) {
    return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
        else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
}

// The name for assistive technology is the visible text; `title` describes it.
export function button(text, title, onClick, attributes = {}) {
    return el("button", { type: "button", title, onclick: onClick, ...attributes }, text);
}

// A switch: pressed or not. Returns {element, set}.
export function toggle(text, title, onChange) {
    const element = button(text, title, () => onChange(element.getAttribute("aria-pressed") !== "true"), { "aria-pressed": "false" });
    return { element, set: (on) => element.setAttribute("aria-pressed", on) };
}

// A labelled choice. options: {value: text}. Returns {element, set, allow}.
export function choice(label, title, options, onChange) {
    const entries = Object.entries(options).map(([value, text]) => el("option", { value }, text));
    const select = el("select", { "aria-label": label, onchange: () => onChange(select.value) }, ...entries);
    return {
        element: el("label", { title }, el("span", {}, label), select),
        set: (value) => { select.value = value; },
        allow: (value, on) => { entries.find((entry) => entry.value === value).disabled = !on; },
    };
}

// A labelled slider with its value beside it. onInput(value, finished). Returns {element, set}.
// scale: {from(position), to(value)} between the positions min … max and the values, where they differ.
export function slider(label, title, { min, max, step, format, scale = { from: (x) => x, to: (x) => x } }, onInput) {
    const output = el("output");
    const value = () => scale.from(Number(input.value));
    const show = (text) => {
        output.textContent = text;
        input.setAttribute("aria-valuetext", text);
    };
    const changed = (finished) => {
        show(format(value()));
        onInput(value(), finished);
    };
    const input = el("input", {
        type: "range", min, max, step, "aria-label": label, oninput: () => changed(false), onchange: () => changed(true),
    });
    return {
        element: el("label", { class: "mf-slider", title }, el("span", {}, label), input, output),
        set: (current) => {
            input.value = scale.to(current);
            show(format(current));
        },
    };
}

// A labelled number that is typed. onChange(value) for numbers above `above`; others are taken back. Returns {element, set}.
export function numberField(label, title, above, onChange) {
    let last = "";
    const input = el("input", {
        type: "number", step: "any", "aria-label": label,
        onchange: () => {
            const value = Number(input.value);
            if (input.value !== "" && value > above) onChange(value);
            else input.value = last;
        },
        onkeydown: (event) => event.stopPropagation(), // the graph's shortcuts are not for digits
    });
    return {
        element: el("label", { class: "mf-number", title }, el("span", {}, label), input),
        set: (value) => { input.value = last = value; },
    };
}

// "‹ 1 / 4 ›" with a slider and a play button for a batch; hidden where there is one image. onChange(index) may return a
// promise: the next image of a film waits for it. Returns {element, set(index, count), stop}.
export function batchSelector(onChange) {
    const state = { index: 0, count: 0 };
    let timer = 0;
    const text = el("output");
    const step = (by) => onChange((state.index + by + state.count) % state.count);
    const scrub = el("input", {
        type: "range", min: 0, step: 1, "aria-label": t("Image of the batch"), oninput: () => { stop(); onChange(Number(scrub.value)); },
    });
    const playing = toggle(t("Play"), t("Show one image of the batch after the other"), (on) => (on ? play() : stop()));
    const hand = (by) => () => { stop(); step(by); };
    const element = el("span", { class: "mf-batch", role: "group", "aria-label": t("Batch"), hidden: true },
        button("‹", t("Previous image of the batch"), hand(-1), { "aria-label": t("Previous image ‹") }), text,
        button("›", t("Next image of the batch"), hand(1), { "aria-label": t("Next image ›") }), scrub, playing.element);

    async function play() {
        playing.set(true);
        const own = timer = setTimeout(async () => {
            await step(1);
            if (timer === own) play();
        }, FILM_MS);
    }

    function stop() {
        clearTimeout(timer);
        timer = 0;
        playing.set(false);
    }

    return {
        element,
        stop,
        set: (index, count) => {
            Object.assign(state, { index, count });
            element.hidden = count < 2;
            text.textContent = `${index + 1} / ${count}`;
            scrub.max = Math.max(0, count - 1);
            scrub.value = index;
            if (count < 2) stop();
        },
    };
}

// A text over the picture: what is missing, under way or wrong. Returns {element, show(kind, text), hide()}.
export function stateText() {
    const element = el("div", { class: "mf-state", role: "status" });
    return {
        element,
        show: (kind, text) => {
            element.hidden = false;
            element.dataset.state = kind;
            element.textContent = text;
        },
        hide: () => {
            element.hidden = true;
            element.dataset.state = "ready";
        },
    };
}

// The pointer in the element's own pixels, whatever the zoom of the graph.
export function localPosition(event, element) {
    const box = element.getBoundingClientRect();
    return [
        ((event.clientX - box.left) * element.clientWidth) / box.width,
        ((event.clientY - box.top) * element.clientHeight) / box.height,
    ];
}

const SHIELDED = ["pointerdown", "pointermove", "pointerup", "mousedown", "mousemove", "wheel", "dblclick"];

// Keeps pointer, wheel and menu events of a control from the graph below it. Not mouseup: the frontend's undo hears it.
export function shield(element) {
    for (const type of SHIELDED) {
        element.addEventListener(type, (event) => event.stopPropagation(), { passive: true });
    }
    element.addEventListener("contextmenu", (event) => { event.preventDefault(); event.stopPropagation(); });
    element.dataset.captureWheel = "true";
    return element;
}

// Hands a blob to the browser's downloads.
export function saveFile(blob, name) {
    const address = URL.createObjectURL(blob);
    el("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000); // the browser reads it after the click
}

// Draws at the next animation frame, however often it is asked. Returns {request, dispose}.
export function onDemand(draw) {
    let frame = 0;
    return {
        request: () => { frame ||= requestAnimationFrame(() => { frame = 0; draw(); }); },
        dispose: () => { cancelAnimationFrame(frame); frame = -1; },
    };
}
