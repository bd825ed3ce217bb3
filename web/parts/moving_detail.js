// Fewer points while the camera moves, if the machine needs it; all of them as soon as it rests.

const FRAME_MS = 25; // what the points may take of a frame while the camera moves
const COARSEST = 6;
const REST_MS = 200;

// request(): asks for a frame. Returns {moved, moving, stride, measured, dispose}.
export function movingDetail(request) {
    let needed = 1;
    let moving = false;
    let rest = 0;

    function moved() {
        moving = true;
        clearTimeout(rest);
    }

    // For a frame that is about to be drawn: every n-th row and column.
    function stride() {
        if (!moving) return 1;
        // From the frame on, not from the move: a frame may take longer than the rest.
        clearTimeout(rest);
        rest = setTimeout(() => { moving = false; request(); }, REST_MS);
        return needed;
    }

    return {
        moved,
        stride,
        moving: () => moving,
        measured: (fullFrameMs) => { needed = strideFor(fullFrameMs); },
        dispose: () => clearTimeout(rest),
    };
}

// The cost falls with the number of points, which falls with the square of the stride.
export function strideFor(fullFrameMs) {
    return Math.min(COARSEST, Math.max(1, Math.ceil(Math.sqrt(fullFrameMs / FRAME_MS))));
}
