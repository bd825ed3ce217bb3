// Small DOM helpers. Listeners sit on elements of the widget alone, so they go with it.

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

export function button(text, title, onClick, attributes = {}) {
    return el("button", { type: "button", title, "aria-label": title, onclick: onClick, ...attributes }, text);
}

// A labelled choice. options: {value: text}. Returns {element, set}.
export function choice(label, title, options, onChange) {
    const entries = Object.entries(options).map(([value, text]) => el("option", { value }, text));
    const select = el("select", { "aria-label": label, onchange: () => onChange(select.value) }, ...entries);
    return {
        element: el("label", { title }, el("span", {}, label), select),
        set: (value) => { select.value = value; },
    };
}

// A labelled slider with its value beside it. Returns {element, set}.
export function slider(label, title, { min, max, step, format }, onInput) {
    const output = el("output");
    const show = () => { output.textContent = format(Number(input.value)); };
    const input = el("input", {
        type: "range", min, max, step, "aria-label": label,
        oninput: () => { show(); onInput(Number(input.value)); },
    });
    return {
        element: el("label", { class: "mf-slider", title }, el("span", {}, label), input, output),
        set: (value) => { input.value = value; show(); },
    };
}

// "‹ 1 / 4 ›" for a batch; hidden when there is one. Returns {element, set(index, count)}.
export function batchSelector(onChange) {
    const state = { index: 0, count: 0 };
    const text = el("output", { "aria-live": "polite" });
    const step = (by) => onChange((state.index + by + state.count) % state.count);
    const element = el("span", { class: "mf-batch", role: "group", "aria-label": "Image of the batch" },
        button("‹", "Previous image of the batch", () => step(-1)), text, button("›", "Next image of the batch", () => step(1)));
    return {
        element,
        set: (index, count) => {
            Object.assign(state, { index, count });
            element.hidden = count < 2;
            text.textContent = `${index + 1} / ${count}`;
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

// Keeps pointer, wheel and menu events of a control from the graph below it.
export function shield(element) {
    for (const type of ["pointerdown", "pointermove", "pointerup", "mousedown", "mousemove", "mouseup", "wheel", "dblclick"]) {
        element.addEventListener(type, (event) => event.stopPropagation(), { passive: true });
    }
    element.addEventListener("contextmenu", (event) => { event.preventDefault(); event.stopPropagation(); });
    element.dataset.captureWheel = "true";
    return element;
}

// Draws at the next animation frame, however often it is asked. Returns {request, dispose}.
export function onDemand(draw) {
    let frame = 0;
    return {
        request: () => { frame ||= requestAnimationFrame(() => { frame = 0; draw(); }); },
        dispose: () => { cancelAnimationFrame(frame); frame = -1; },
    };
}
