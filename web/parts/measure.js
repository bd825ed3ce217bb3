// Two clicked points and the line between them, drawn over the picture.

import { svg } from "./elements.js";
import { toScreen } from "./points.js";

export function measure() {
    const line = svg("line");
    const ends = [svg("circle", { r: 4 }), svg("circle", { r: 4 })];
    const element = svg("svg", { class: "mf-markers", "aria-hidden": "true" }, line, ...ends);
    let points = [];

    // point: {at: [x, y, z], …}. The third starts anew.
    function add(point) {
        points = points.length === 2 ? [point] : [...points, point];
    }

    function draw(clip, viewport) {
        const places = points.map(({ at }) => toScreen(clip, viewport, at));
        ends.forEach((circle, index) => {
            circle.style.display = places[index] ? "" : "none";
            if (places[index]) setAll(circle, { cx: places[index][0], cy: places[index][1] });
        });
        const both = places.length === 2 && places[0] && places[1];
        line.style.display = both ? "" : "none";
        if (both) setAll(line, { x1: places[0][0], y1: places[0][1], x2: places[1][0], y2: places[1][1] });
    }

    return {
        element,
        add,
        draw,
        clear: () => { points = []; },
        points: () => points,
    };
}

function setAll(element, attributes) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}
