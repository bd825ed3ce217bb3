// Camera conventions, as model/geometry/camera.py and pose.py (pinned by tests/golden_web).
// Axes: x right, y down, z forward. Pixel centres at + 0.5. K: nine numbers by rows, divided by the image size.
// A pose is a 4×4 matrix by rows, from the moved camera's axes to the source camera's.

export function unproject(column, row, depth, k, width, height) {
    return [
        (depth * ((column + 0.5) / width - k[2])) / k[0],
        (depth * ((row + 0.5) / height - k[5])) / k[4],
        depth,
    ];
}

// [x, y] in pixels of a point before the camera; null at or behind it.
export function project(point, k, width, height) {
    const [x, y, z] = point;
    if (!(z > 0)) return null;
    return [((x / z) * k[0] + k[2]) * width, ((y / z) * k[4] + k[5]) * height];
}

// Camera on an orbit: at `distance` from `pivot`, looking at it, turned right by yaw and then up by pitch.
export function orbitPose({ pivot, distance, yaw, pitch }) {
    const [cy, sy] = [Math.cos(radians(yaw)), Math.sin(radians(yaw))];
    const [cp, sp] = [Math.cos(radians(pitch)), Math.sin(radians(pitch))];
    const right = [cy, 0, -sy];
    const down = [sy * sp, cp, cy * sp];
    const forward = [sy * cp, -sp, cy * cp];
    const position = pivot.map((value, axis) => value - distance * forward[axis]);
    const row = (axis) => [right[axis], down[axis], forward[axis], position[axis]];
    return [...row(0), ...row(1), ...row(2), 0, 0, 0, 1];
}

// The inverse of a pose: from the source camera's axes to the moved one's.
export function viewMatrix(pose) {
    const column = (i) => [pose[i], pose[4 + i], pose[8 + i]];
    const position = column(3);
    const row = (i) => [...column(i), -dot(column(i), position)];
    return [...row(0), ...row(1), ...row(2), 0, 0, 0, 1];
}

export function transform(matrix, point) {
    return [0, 4, 8].map((r) => matrix[r] * point[0] + matrix[r + 1] * point[1] + matrix[r + 2] * point[2] + matrix[r + 3]);
}

// 4×4 by rows, from camera axes to WebGL's clip space: the source picture fills a viewport as far as it fits, centred.
export function clipMatrix(k, picture, viewport, near, far) {
    const scale = fitScale(picture, viewport);
    const ax = (2 * scale * picture.width) / viewport.width;
    const ay = (2 * scale * picture.height) / viewport.height;
    return [
        ax * k[0], 0, ax * (k[2] - 0.5), 0,
        0, -ay * k[4], -ay * (k[5] - 0.5), 0,
        0, 0, (far + near) / (far - near), (-2 * far * near) / (far - near),
        0, 0, 1, 0,
    ];
}

// Screen pixels for each pixel of the picture.
export function fitScale(picture, viewport) {
    return Math.min(viewport.width / picture.width, viewport.height / picture.height);
}

export function multiply(a, b) {
    return Array.from({ length: 16 }, (_, i) => {
        const [row, column] = [4 * Math.floor(i / 4), i % 4];
        return a[row] * b[column] + a[row + 1] * b[4 + column] + a[row + 2] * b[8 + column] + a[row + 3] * b[12 + column];
    });
}

// K of the same camera with another top-bottom field of view, in degrees; square pixels stay square.
export function withFovY(k, fovYDeg) {
    const zoom = Math.tan(radians(fovY(k) / 2)) / Math.tan(radians(fovYDeg) / 2);
    return [k[0] * zoom, 0, 0.5, 0, k[4] * zoom, 0.5, 0, 0, 1];
}

// Degrees between the top and the bottom border, for a centre in the middle.
export function fovY(k) {
    return (2 * Math.atan(0.5 / k[4]) * 180) / Math.PI;
}

export function distance(a, b) {
    return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}

function dot(a, b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

function radians(degrees) {
    return (degrees * Math.PI) / 180;
}
