// A small network by way of wasm.cpp, as a page would build it, against plain loops in double precision.
//
//     node wasm.mjs ENGINE.wasm
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

// A page: (await WebAssembly.instantiateStreaming(fetch(...), imports)).instance.exports
const imports = {
    env: { emscripten_notify_memory_growth() {} },
    wasi_snapshot_preview1: { proc_exit: (code) => assert.fail(`the engine ended with ${code}`) },
};
const engine = new WebAssembly.Instance(new WebAssembly.Module(readFileSync(process.argv[2])), imports).exports;
engine._initialize();

// Memory moves when it grows: a view of it is good until the next call.
const floats = () => new Float32Array(engine.memory.buffer);
const words = () => new Int32Array(engine.memory.buffer);
function array(values) {
    const at = engine.allocate(4 * values.length);
    floats().set(values, at / 4);
    return at;
}
function refusal() {
    const bytes = new Uint8Array(engine.memory.buffer), at = engine.refusal();
    return new TextDecoder().decode(bytes.slice(at, bytes.indexOf(0, at)));
}
// Words, and floats where they are given as {float}.
function record(...fields) {
    const at = engine.allocate(4 * fields.length);
    fields.forEach((field, n) => {
        if (typeof field === "object") floats()[at / 4 + n] = field.float;
        else words()[at / 4 + n] = field;
    });
    return at;
}

let state = 1;
function drawn(count, most) {
    // Marsaglia's xorshift.
    return Float32Array.from({ length: count }, () => {
        for (const by of [13, -17, 5]) state ^= by > 0 ? state << by : state >>> -by;
        return (state / 2 ** 31) * most;
    });
}
function layer(out, inputs, taps, [low, high]) {
    const kernel = drawn(out * inputs * taps, 1.7 / Math.sqrt(inputs * taps));
    return { out, inputs, taps, low, high, kernel, bias: drawn(out, 0.5) };
}
const pieces = ({ kernel, bias }) => [array(kernel), array(bias)];
const ends = ({ low, high }) => [{ float: low }, { float: high }];
const weights = (of) => [...pieces(of), of.out, of.inputs, ...ends(of)];

// (channels, height, width) in doubles; each: the layer has a kernel of one channel for each.
function convolved(map, of, { stride = 1, pad = 0, size = map.size, each = false }) {
    const side = Math.sqrt(of.taps), values = [];
    for (let o = 0; o < of.out; o++)
        for (let y = 0; y < size[0]; y++)
            for (let x = 0; x < size[1]; x++) {
                let sum = of.bias[o];
                for (let i = 0; i < of.inputs; i++)
                    for (let k = 0; k < of.taps; k++) {
                        const v = y * stride - pad + Math.floor(k / side), u = x * stride - pad + (k % side);
                        if (v < 0 || v >= map.size[0] || u < 0 || u >= map.size[1]) continue;
                        const value = map.values[((each ? o : i) * map.size[0] + v) * map.size[1] + u];
                        sum += of.kernel[(o * of.inputs + i) * of.taps + k] * value;
                    }
                values.push(Math.min(Math.max(sum, of.low), of.high));
            }
    return { values, size };
}

const RELU6 = [0, 6], ANY = [-Infinity, Infinity];
const size = [37, 29], half = [19, 15];
const stem = layer(13, 3, 9, RELU6), head = layer(70, 13, 1, RELU6), dense = layer(10, 70, 1, ANY);
const expand = layer(50, 13, 1, RELU6), filter = layer(50, 1, 9, RELU6), project = layer(13, 50, 1, ANY);
const picture = { values: drawn(3 * size[0] * size[1], 1), size };

const network = engine.network_new(...size);
const first = engine.network_stem(network, record(...weights(stem), 1, 1, ...half));
const geometry = [1, 1, 1, 1, ...half]; // stride, dilation, pads, size
const filtering = record(...pieces(filter), filter.out, ...ends(filter), ...geometry);
const [expanding, projecting] = [expand, project].map((each) => record(...weights(each)));
const block = engine.network_block(network, first, expanding, 0, filtering, projecting, 1);
const answer = engine.network_pooled(network, block, record(...weights(head)), record(...weights(dense)));
for (const value of [block, answer]) assert.equal(engine.network_output(network, value, 0), 0, refusal());
assert.equal(engine.network_finish(network), 0, refusal());
const pixels = half[0] * half[1];
const found = [13 * pixels, 10].map((count) => ({ count, at: array(new Float32Array(count).fill(NaN)) }));
const outputs = record(...found.map(({ at }) => at));
assert.equal(engine.network_run(network, array(picture.values), 1, outputs), 0, refusal());

const before = convolved(picture, stem, { stride: 2, pad: 1, size: half });
const after = convolved(convolved(convolved(before, expand, {}), filter, { pad: 1, each: true }), project, {});
after.values.forEach((value, n) => (after.values[n] = value + before.values[n]));
const { values } = convolved(after, head, {});
const mean = (some) => some.reduce((a, b) => a + b) / some.length;
const means = Array.from({ length: head.out }, (_, c) => mean(values.slice(c * pixels, (c + 1) * pixels)));
const wanted = [after.values, convolved({ values: means, size: [1, 1] }, dense, {}).values];
wanted.forEach((right, o) => {
    const { at, count } = found[o], got = floats().subarray(at / 4, at / 4 + count);
    assert.equal(right.length, count);
    const largest = Math.max(...right.map(Math.abs));
    right.forEach((value, n) => {
        assert.ok(Math.abs(got[n] - value) < 1e-5 * largest, `output ${o}, ${n}: ${got[n]}, not ${value}`);
    });
});

// What does not fit is refused, and what 32 bits cannot address.
function refuses(returned, why) {
    assert.equal(returned, -1);
    assert.match(refusal(), why);
}
refuses(engine.network_mean(network, 99), /no map 99/);
refuses(engine.network_mean(0, 0), /no network/);
const outside = record(1 << 30, 1 << 30, 8, 13, ...ends(head));
refuses(engine.network_pointwise(network, first, outside, -1), /module's memory/);
assert.equal(engine.network_new(0, 1), 0);
// 2 ** 32 floats.
const huge = engine.network_new(1 << 14, 1 << 14);
const wide = record(...weights(layer(64, 3, 9, ANY)), 1, 1, 1 << 13, 1 << 13);
refuses(engine.network_stem(huge, wide), /more memory/);
engine.network_delete(huge);
engine.network_delete(network);
console.log(`${process.argv[2]}: a network built from JavaScript is right, and what is wrong is refused`);
