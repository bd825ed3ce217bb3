// Every slider is a uniform: nothing is sent to the GPU again but colours.

export const VERTEX = `#version 300 es
precision highp float;

layout(location = 0) in vec3 position;  // source axes
layout(location = 1) in vec2 shape;     // spacing of the samples, span of the depth around
layout(location = 2) in vec3 tint;
uniform mat4 clip;          // from source axes to clip space; w is the distance along the view
uniform float edge;         // largest span over depth, 0 keeps all
uniform float far;          // largest depth, 0 keeps all
uniform float focal;        // screen pixels of the length 1 at the distance 1, times the points' size
uniform bool points;        // else triangles, which the fragments cut
out vec3 colour;
out float depth;

void main() {
    colour = tint;
    depth = position.z;
    bool kept = (edge == 0.0 || shape.y <= edge * depth) && (far == 0.0 || depth <= far);
    gl_Position = points && !kept ? vec4(2.0, 2.0, 2.0, 1.0) : clip * vec4(position, 1.0);
    gl_PointSize = clamp(focal * shape.x / gl_Position.w, 1.0, 64.0);
}
`;

export const FRAGMENT = `#version 300 es
precision highp float;
in vec3 colour;
in float depth;
uniform float far;
out vec4 result;
void main() {
    if (far > 0.0 && depth > far) discard;
    result = vec4(colour, 1.0);
}
`;
