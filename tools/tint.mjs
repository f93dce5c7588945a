// Compiles WGSL with Tint, the compiler of Dawn and Chromium, which naga does not stand for.
//
//   node tools/tint.mjs FOLDER MODULES [BACKEND]
//
// FOLDER holds shaders, assembled (`TREPHINE_DUMP_WGSL=FOLDER` writes them); MODULES is where `npm install webgpu` was run.
// BACKEND is `null` without a word, which checks each shader and the pipeline that it makes and needs no adapter, or
// `vulkan`, which generates code as well. Shaders with what WebGPU does not know (matrices, words of 64 bits) are counted and
// left out. Ends with 1 where a shader is refused, and says why.
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, modules, backend = 'null'] = process.argv.slice(2);
if (!modules) {
  console.error('usage: node tools/tint.mjs FOLDER MODULES [BACKEND]');
  process.exit(2);
}
const found = createRequire(pathToFileURL(join(resolve(modules), 'package.json'))).resolve('webgpu');
const { create, globals } = await import(pathToFileURL(found));
Object.assign(globalThis, globals);

// Kept: what it hands out does not keep it.
const gpu = create([`backend=${backend}`]);
const adapter = await gpu.requestAdapter();
if (!adapter) {
  console.error(`Dawn finds no adapter for the backend ${backend}`);
  process.exit(2);
}
const wanted = ['shader-f16', 'subgroups'].filter((feature) => adapter.features.has(feature));
const device = await adapter.requestDevice({ requiredFeatures: wanted });

const files = readdirSync(folder).filter((name) => name.endsWith('.wgsl'));
const refused = [];
let leftOut = 0;
for (const name of files) {
  const code = readFileSync(join(folder, name), 'utf8');
  if (/^enable wgpu_|\bu64\b/m.test(code)) {
    leftOut += 1;
    continue;
  }
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  const complaints = messages
    .filter(({ type }) => type === 'error')
    .map(({ lineNum, linePos, message }) => `${name}:${lineNum}:${linePos}: ${message}`);
  if (complaints.length === 0) {
    device.createComputePipeline({ layout: 'auto', compute: { module } });
  }
  const error = await device.popErrorScope();
  if (complaints.length === 0 && error) {
    complaints.push(`${name}: ${error.message}`);
  }
  if (complaints.length > 0) {
    refused.push(complaints.join('\n'));
  }
}
refused.forEach((complaint) => console.error(complaint));
console.log(
  `Tint took ${files.length - leftOut - refused.length} of ${files.length} shaders, refused ${refused.length}; ` +
    `${leftOut} use what WebGPU does not know`,
);
process.exit(refused.length > 0 || files.length === leftOut ? 1 : 0);
