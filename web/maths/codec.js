// The model's depth code (model/depth/codec.py; pinned by tests/golden_web): depth over its mean, [0, ∞) to [0, 2).

export function contract(depth) {
    return depth <= 1 ? depth : 2 - 1 / depth;
}

export function expand(code) {
    return code <= 1 ? code : 1 / (2 - code);
}
