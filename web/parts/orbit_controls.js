// Pointer, wheel and keys to a camera on an orbit: {pivot, distance, yaw, pitch}, see maths/camera.js.

import { orbitPose } from "../maths/camera.js";
import { gestures } from "./gestures.js";

const DEGREES_PER_PIXEL = 0.35;
const STEEPEST = 89;
const FLY = { w: [2, 1], s: [2, -1], a: [0, -1], d: [0, 1], q: [1, 1], e: [1, -1] }; // axis (right, down, forward), sign
const TURN = { ArrowLeft: [3, 0], ArrowRight: [-3, 0], ArrowUp: [0, -3], ArrowDown: [0, 3] };
const FLY_SPEED = 0.6; // pivot distances a second

export function orbited(camera, yaw, pitch) {
    const steep = Math.min(STEEPEST, Math.max(-STEEPEST, camera.pitch + pitch));
    return { ...camera, yaw: ((camera.yaw + yaw + 540) % 360) - 180, pitch: steep };
}

// Moves camera and pivot along the camera's axes [right, down, forward].
export function moved(camera, [right, down, forward]) {
    const pose = orbitPose(camera);
    const pivot = camera.pivot.map((value, axis) => value
        + pose[4 * axis] * right + pose[4 * axis + 1] * down + pose[4 * axis + 2] * forward);
    return { ...camera, pivot };
}

// Towards the pivot, as far as a hundredth of `unit` and as near.
export function dollied(camera, factor, unit) {
    return { ...camera, distance: Math.min(100 * unit, Math.max(0.01 * unit, camera.distance * factor)) };
}

// host: {get(), set(camera, finished), unit() (depth of the scene), perPixel() (length of a screen pixel at distance 1),
// click(event), reset()}.
export function orbitControls(element, host) {
    const held = new Set();
    let flying = 0;
    let settle = 0;

    gestures(element, {
        drag: (dx, dy, { pan }) => (pan ? panned(dx, dy) : host.set(orbited(host.get(), dx * DEGREES_PER_PIXEL, -dy * DEGREES_PER_PIXEL), false)),
        pinch: (factor, dx, dy) => {
            panned(dx, dy);
            host.set(dollied(host.get(), 1 / factor, host.unit()), false);
        },
        click: host.click,
        end: (hasMoved) => hasMoved && host.set(host.get(), true),
    });

    function panned(dx, dy) {
        const camera = host.get();
        const length = host.perPixel() * camera.distance;
        host.set(moved(camera, [-dx * length, -dy * length, 0]), false);
    }

    element.addEventListener("wheel", (event) => {
        event.preventDefault();
        host.set(dollied(host.get(), Math.exp(event.deltaY / 600), host.unit()), false);
        clearTimeout(settle);
        settle = setTimeout(() => host.set(host.get(), true), 300);
    }, { passive: false });
    element.addEventListener("keydown", press);
    element.addEventListener("keyup", (event) => { held.delete(event.key.toLowerCase()); });
    element.addEventListener("blur", () => held.clear());

    function press(event) {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const key = event.key.toLowerCase();
        if (FLY[key]) {
            held.add(key);
            flying ||= requestAnimationFrame((now) => fly(now, now));
        } else if (TURN[event.key]) host.set(orbited(host.get(), ...TURN[event.key]), true);
        else if (key === "+" || key === "=") host.set(dollied(host.get(), 0.9, host.unit()), true);
        else if (key === "-") host.set(dollied(host.get(), 1 / 0.9, host.unit()), true);
        else if (key === "home" || key === "r") host.reset();
        else return;
        event.preventDefault();
        event.stopPropagation();
    }

    function fly(before, now) {
        flying = 0;
        const length = (FLY_SPEED * host.unit() * Math.min(100, now - before)) / 1000;
        const way = [0, 0, 0];
        for (const key of held) way[FLY[key][0]] += FLY[key][1] * length;
        host.set(moved(host.get(), way), held.size === 0);
        if (held.size) flying = requestAnimationFrame((next) => fly(now, next));
    }

    return {
        dispose: () => {
            cancelAnimationFrame(flying);
            clearTimeout(settle);
            held.clear();
        },
    };
}
