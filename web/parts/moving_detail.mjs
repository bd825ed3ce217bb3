// Fewer points while the camera moves, if the machine needs it; all of them as soon as it rests.

const SLOW_MS = 45;
const FAST_MS = 20;
const COARSEST = 8;
const REST_MS = 150;

// request(): asks for a frame. Returns {moved, stride(now), dispose}.
export function movingDetail(request) {
    let stride = 1;
    let moving = false;
    let last = 0;
    let rest = 0;

    function moved() {
        if (!moving) last = 0;
        moving = true;
        clearTimeout(rest);
        rest = setTimeout(() => { moving = false; request(); }, REST_MS);
    }

    // For the frame that starts at `now`: every n-th row and column.
    function strideNow(now) {
        if (!moving) return 1;
        stride = last ? nextStride(stride, now - last) : stride;
        last = now;
        return stride;
    }

    return { moved, stride: strideNow, dispose: () => clearTimeout(rest) };
}

export function nextStride(stride, frameMs) {
    if (frameMs > SLOW_MS) return Math.min(COARSEST, stride + 1);
    return frameMs < FAST_MS ? Math.max(1, stride - 1) : stride;
}
