// Builds a rule project into a component:
//
//     node build.mjs PROJECT OUT.wasm
//
// PROJECT has a `main` in its package.json, or a rule.js, or a rule.ts. The tools, rolldown and
// componentize-qjs, are looked for where this file lies, upwards; or in the folder TOOLS, where that is set.

import { readFileSync, existsSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const sdk = dirname(fileURLToPath(import.meta.url));
const tools = createRequire(process.env.TOOLS ? `${resolve(process.env.TOOLS)}/` : import.meta.url);
const load = (name) => import(pathToFileURL(tools.resolve(name)).href);

const ENTRY = '\0entry';
const INTERFACES = ['alerts', 'clock', 'config', 'devices', 'log', 'output', 'readings', 'state', 'timers'];

/** The module that is the component: what it imports of the contract, and what it exports. */
const entryCode = (main) => `
import 'watchfire-rule/globals';
import { component } from 'watchfire-rule/component';
import { setSources } from 'watchfire-rule/failure';
import rule from ${JSON.stringify(main)};
${INTERFACES.map((name) => `import * as ${name} from 'watchfire:rule/${name}@0.1.0';`).join('\n')}
globalThis.setSources = setSources;
export const { handler, timerHandler, silenceHandler, scheduleHandler, stateMigration } =
  component(rule, { ${INTERFACES.join(', ')} });
`;

function mainOf(project) {
  const manifest = join(project, 'package.json');
  const { main } = existsSync(manifest) ? JSON.parse(readFileSync(manifest, 'utf8')) : {};
  const file = [main, 'rule.js', 'rule.ts'].find((name) => name && existsSync(join(project, name)));
  if (!file) throw new Error(`${project} is no rule project: it has no rule.js and no rule.ts, and no other main`);
  return join(project, file);
}

async function bundle(project) {
  const { rolldown } = await load('rolldown');
  const main = mainOf(project);
  // A project need not be installed: the SDK is known here by its name.
  const ours = {
    'watchfire-rule': join(sdk, 'index.js'),
    'watchfire-rule/component': join(sdk, 'src/component.js'),
    'watchfire-rule/globals': join(sdk, 'src/globals.js'),
    'watchfire-rule/failure': join(sdk, 'src/failure.js'),
  };
  const plugin = {
    name: 'watchfire-rule',
    resolveId: (id) => (id === ENTRY ? ENTRY : ours[id]),
    load: (id) => (id === ENTRY ? entryCode(main) : undefined),
  };
  const built = await rolldown({
    input: ENTRY,
    external: /^watchfire:/,
    plugins: [plugin],
    treeshake: true,
    tsconfig: false,
    onwarn(warning) {
      throw new Error(warning.message);
    },
  });
  const { output } = await built.generate({ dir: project, format: 'esm', sourcemap: 'hidden', minify: false });
  await built.close();
  const [chunk] = output.filter((file) => file.type === 'chunk');
  return chunk;
}

/** For each file of the project: which lines of the bundle come from which of its lines. */
function sourcesOf({ map }, project) {
  const own = new Map();
  let line = 1;
  let file = 0;
  let fileLine = 0;
  for (const mapped of map.mappings.split(';')) {
    let firstFile, firstLine;
    for (const segment of mapped.split(',')) {
      const [, fileStep, lineStep] = segment ? decoded(segment) : [];
      if (fileStep === undefined) continue;
      file += fileStep;
      fileLine += lineStep;
      firstFile ??= file;
      firstLine ??= fileLine;
    }
    if (firstFile !== undefined) {
      const name = nameOf(map.sources[firstFile], project);
      if (name) {
        if (!own.has(name)) own.set(name, { file: name, first: line, last: line, pairs: [] });
        const entry = own.get(name);
        entry.last = line;
        const { pairs } = entry;
        // Lines that follow each other on both sides need no pair of their own.
        if (pairs.length === 0 || line - pairs.at(-2) !== firstLine + 1 - pairs.at(-1)) pairs.push(line, firstLine + 1);
      }
    }
    line += 1;
  }
  return [...own.values()];
}

/** The name of a file of the rule; undefined for those of the SDK, of packages, and for the entry. */
function nameOf(source, project) {
  const path = resolve(project, source);
  const inside = (folder) => !relative(folder, path).startsWith('..');
  const ofSdk = inside(join(sdk, 'src')) || path === join(sdk, 'index.js');
  if (source.includes('\0') || ofSdk || !inside(project)) return undefined;
  return relative(project, path).split(sep).join('/');
}

/** The numbers of a segment of a source map: base 64, six bits each, the lowest of the first the sign. */
function decoded(segment) {
  const digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
  const numbers = [];
  let value = 0;
  let shift = 0;
  for (const character of segment) {
    const digit = digits.indexOf(character);
    value += (digit & 31) << shift;
    shift += 5;
    if (digit & 32) continue;
    numbers.push(value & 1 ? -(value >> 1) : value >> 1);
    value = 0;
    shift = 0;
  }
  return numbers;
}

async function build(folder, out) {
  const project = resolve(folder);
  const chunk = await bundle(project);
  const { componentize } = tools('componentize-qjs');
  const { component } = await componentize({
    witPath: join(sdk, 'wit'),
    world: 'full-rule',
    jsSource: `${chunk.code}
globalThis.setSources(${JSON.stringify(sourcesOf(chunk, project))});
delete globalThis.setSources;
`,
    sync: true,
    stubWasi: true,
  });
  writeFileSync(out, component);
}

const [folder, out] = process.argv.slice(2);
if (!folder || !out) {
  console.error('node build.mjs PROJECT OUT.wasm');
  process.exit(2);
}
build(folder, out).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
