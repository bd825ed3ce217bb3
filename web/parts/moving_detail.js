// Fewer points while the camera moves, if the machine needs it; all of them as soon as it rests.

const FRAME_MS = 50; // what the points may take of a frame while the camera moves
const FEWEST = 0.02;
const REST_MS = 200;

// request(): asks for a frame. Returns {moved, moving, share, measured, rate(): points in a millisecond, dispose}.
export function movingDetail(request) {
    let needed = 1;
    let rate = Infinity;
    let moving = false;
    let rest = 0;

    function moved() {
        moving = true;
        clearTimeout(rest);
    }

    // For a frame that is about to be drawn: the share of the points.
    function share() {
        if (!moving) return 1;
        // From the frame on, not from the move: a frame may take longer than the rest.
        clearTimeout(rest);
        rest = setTimeout(() => { moving = false; request(); }, REST_MS);
        return needed;
    }

    return {
        moved,
        share,
        moving: () => moving,
        measured: (fullFrameMs, points) => {
            needed = shareFor(fullFrameMs);
            rate = needed < 1 ? points / fullFrameMs : Infinity; // fast enough is as good as any
        },
        rate: () => rate,
        dispose: () => { clearTimeout(rest); moving = false; },
    };
}

export function shareFor(fullFrameMs) {
    return Math.min(1, Math.max(FEWEST, FRAME_MS / fullFrameMs));
}
