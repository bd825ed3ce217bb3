// Noise levels of the two modalities, step by step (model/diffusion/schedule.py and levels.py; pinned by tests/golden_web).
// Levels run from t = 1 (noise) to t = 0 (clean).

export const LIMIT = 14; // of the log2_alpha input
const HALF_EFFECT = { depth: 0, rgb: -0.4 }; // log2_alpha of the given modality at strength 0.5
const EFFECT_WIDTH = { depth: 0.88, rgb: 1.3 }; // of the logistic curve of its effect

export function shift(u, mu) {
    if (u <= 0) return 0;
    return Math.exp(mu) / (Math.exp(mu) + 1 / u - 1);
}

// The other modality's level while this one stands at t.
export function tilt(t, log2Alpha) {
    const alpha = 2 ** log2Alpha;
    return (alpha * t) / (1 + (alpha - 1) * t);
}

// The log2_alpha whose curve passes through a point; points on the border are moved a little inside.
export function log2AlphaThrough(tRgb, tDepth) {
    const [x, y] = [tRgb, tDepth].map((t) => Math.min(1 - 1e-6, Math.max(1e-6, t)));
    const exact = Math.log2((y * (1 - x)) / (x * (1 - y)));
    return Math.min(LIMIT, Math.max(-LIMIT, exact));
}

// shift(u) on u = 1 … 0: steps + 1 levels.
export function baseLevels(steps, mu) {
    return Array.from({ length: steps + 1 }, (_, step) => shift(1 - step / steps, mu));
}

export function givenLevel(clock, strength, given = "depth") {
    if (strength >= 1) return 0;
    const log2Alpha = HALF_EFFECT[given] - EFFECT_WIDTH[given] * Math.log(strength / (1 - strength));
    return tilt(clock, Math.min(LIMIT, Math.max(-LIMIT, log2Alpha)));
}

// Whether all of a modality is given for the whole run, so that it has no clock of its own.
export function replaces(given) {
    return Boolean(given) && !given.masked && given.strength > 0 && given.start <= 0 && given.end >= 1;
}

// [[t_rgb, t_depth], …] of a run, steps + 1 points.
// given: {rgb, depth}, each absent or {strength, start, end, masked}; what is given inside a mask keeps its clock.
export function trajectory(steps, mu, log2Alpha, given = {}) {
    const alpha = replaces(given.rgb) ? 0 : log2Alpha;
    return baseLevels(steps, mu).map((sigma) => {
        const clock = { rgb: sigma, depth: tilt(sigma, alpha) };
        const level = (own, other) => {
            const it = given[own];
            const active = it && !it.masked && it.strength > 0
                && sigma <= shift(1 - it.start, mu) && sigma > shift(1 - it.end, mu);
            // At sigma 0 the run is over: what was given until the end is still where it was.
            const ended = it && !it.masked && it.strength > 0 && sigma === 0;
            return active || ended ? givenLevel(clock[other], it.strength, own) : clock[own];
        };
        return [level("rgb", "depth"), level("depth", "rgb")];
    });
}
