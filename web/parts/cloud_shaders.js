// The points are made on the GPU from the depth map, one for each pixel: nothing but uniforms changes with a slider.

export const VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;

uniform sampler2D depths;   // R: depth, 0 where not valid; G: span of the depth around it
uniform sampler2D picture;
uniform sampler2D ramp;     // colours by depth
uniform ivec2 size;
uniform int stride;         // every n-th row and column while the camera moves on a slow machine
uniform vec4 camera;        // fx/W, fy/H, cx/W, cy/H
uniform mat4 clip;          // from source axes to clip space; w is the distance along the view
uniform float edge;         // largest span over depth, 0 keeps all
uniform float far;          // largest depth, 0 keeps all
uniform float pointSize;    // in spacings of the points
uniform float fit;          // screen pixels for a pixel of the picture
uniform vec2 range;         // 1/depth at the far and at the near end of the ramp
uniform int colourBy;       // 0 picture, 1 depth, 2 normal
out vec3 colour;

vec3 unproject(ivec2 pixel, float z) {
    vec2 at = (vec2(pixel) + 0.5) / vec2(size);
    return vec3((at - camera.zw) / camera.xy, 1.0) * z;
}

// From the pixel before to the one after, leaving out neighbours of another surface; 0 where there is none.
vec3 tangent(ivec2 pixel, ivec2 by, vec3 here) {
    vec3 first = here;
    vec3 last = here;
    for (int side = -1; side <= 1; side += 2) {
        ivec2 beside = pixel + side * by;
        if (any(lessThan(beside, ivec2(0))) || any(greaterThanEqual(beside, size))) continue;
        float z = texelFetch(depths, beside, 0).r;
        if (!(z > 0.0) || abs(z - here.z) > 0.04 * here.z) continue;
        if (side < 0) first = unproject(beside, z);
        else last = unproject(beside, z);
    }
    return last - first;
}

// As a normal picture: x right, y up, z towards the camera.
vec3 normalColour(ivec2 pixel, vec3 here) {
    vec3 normal = cross(tangent(pixel, ivec2(0, 1), here), tangent(pixel, ivec2(1, 0), here));
    float extent = length(normal);
    return extent > 0.0 ? 0.5 + 0.5 * normal / extent * vec3(1.0, -1.0, -1.0) : vec3(0.5);
}

void main() {
    int columns = (size.x + stride - 1) / stride;
    ivec2 pixel = ivec2(gl_VertexID % columns, gl_VertexID / columns) * stride;
    vec2 depthAndSpan = texelFetch(depths, pixel, 0).rg;
    float z = depthAndSpan.r;
    bool kept = z > 0.0 && (edge == 0.0 || depthAndSpan.g <= edge * z) && (far == 0.0 || z <= far);
    if (!kept) {
        gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
        return;
    }
    vec3 here = unproject(pixel, z);
    gl_Position = clip * vec4(here, 1.0);
    gl_PointSize = clamp(pointSize * fit * float(stride) * z / gl_Position.w, 1.0, 64.0);
    if (colourBy == 0) colour = texelFetch(picture, pixel, 0).rgb;
    else if (colourBy == 1) {
        float nearness = clamp((1.0 / z - range.x) / max(range.y - range.x, 1e-12), 0.0, 1.0);
        colour = texelFetch(ramp, ivec2(int(nearness * 255.0 + 0.5), 0), 0).rgb;
    } else colour = normalColour(pixel, here);
}
`;

export const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 colour;
out vec4 result;
void main() { result = vec4(colour, 1.0); }
`;
