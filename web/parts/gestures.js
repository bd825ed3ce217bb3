// Pointers on an element: one drags or clicks, two pinch. Listeners go with the element.

import { localPosition } from "./elements.js";

const CLICK_PIXELS = 4;

// callbacks, all optional but drag: drag(dx, dy, {pan}); pinch(factor, dx, dy, middle); click(event); end(moved).
// Lengths are in the element's own pixels. pan: another button than the first, Shift, or two fingers.
export function gestures(element, callbacks) {
    const pointers = new Map(); // id -> [x, y]
    let first = null; // {button, pan, way, pinched} of what began with the first pointer

    element.addEventListener("pointerdown", (event) => {
        element.setPointerCapture(event.pointerId);
        element.focus({ preventScroll: true });
        if (pointers.size === 0) first = { button: event.button, pan: event.button !== 0 || event.shiftKey, way: 0, pinched: false };
        else first.pinched = true;
        pointers.set(event.pointerId, localPosition(event, element));
    });
    element.addEventListener("pointermove", (event) => {
        if (!pointers.has(event.pointerId)) return;
        const before = summary(pointers);
        const [x, y] = pointers.get(event.pointerId);
        const now = localPosition(event, element);
        pointers.set(event.pointerId, now);
        first.way += Math.abs(now[0] - x) + Math.abs(now[1] - y);
        if (pointers.size === 1) {
            if (first.way >= CLICK_PIXELS && !first.pinched) callbacks.drag(now[0] - x, now[1] - y, first);
            return;
        }
        const after = summary(pointers);
        const factor = before.spread > 0 ? after.spread / before.spread : 1;
        callbacks.pinch?.(factor, after.x - before.x, after.y - before.y, [after.x, after.y]);
    });
    element.addEventListener("pointerup", (event) => finish(event, true));
    element.addEventListener("pointercancel", (event) => finish(event, false)); // taken by the system: no click
    element.addEventListener("lostpointercapture", (event) => finish(event, false));

    function finish(event, regular) {
        if (!pointers.delete(event.pointerId) || pointers.size) return;
        const moved = first.pinched || first.way >= CLICK_PIXELS;
        if (!moved && regular && first.button === 0) callbacks.click?.(event);
        callbacks.end?.(moved);
    }
}

// The middle of all pointers and how far they are from it.
export function summary(pointers) {
    const places = [...pointers.values()];
    const mean = (axis) => places.reduce((sum, place) => sum + place[axis], 0) / places.length;
    const [x, y] = [mean(0), mean(1)];
    return { x, y, spread: places.reduce((sum, place) => sum + Math.hypot(place[0] - x, place[1] - y), 0) / places.length };
}
