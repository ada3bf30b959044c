// What an operator reads when a rule fails.

/**
 * Where the lines of the bundle come from: for each file of the rule, its name and pairs of a line of the
 * bundle and of the file, each for the lines up to the next pair. The build appends it.
 */
let sources = [];

export function setSources(given) {
  sources = given;
}

/** The line of the rule that an error came through first: as "rule.js:12"; undefined where there is none. */
export function placeOf(stack) {
  for (const [, line] of String(stack ?? '').matchAll(/:(\d+):\d+\)?$/gm)) {
    const place = original(Number(line));
    if (place) return place;
  }
  return undefined;
}

function original(line) {
  for (const { file, first, last, pairs } of sources) {
    if (line < first || line > last) continue;
    let source;
    for (let i = 0; i < pairs.length && pairs[i] <= line; i += 2) source = pairs[i + 1] + (line - pairs[i]);
    return `${file}:${source}`;
  }
  return undefined;
}

/** An error as the text of a result. The line is left out where it tells nobody anything. */
export function textOf(error, withPlace) {
  // Anything may be thrown, and only a text is taken.
  if (!(error instanceof Error)) return typeof error === 'string' ? error : `thrown: ${String(error)}`;
  const own = error.name === 'Error';
  const said = own ? error.message : `${error.name}: ${error.message}`;
  const place = withPlace || !own ? placeOf(error.stack) : undefined;
  return place ? `${said} (${place})` : said;
}
