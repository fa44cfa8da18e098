// Reads event streams with the parser that MCP clients use, for a comparison with ours: node events.mjs STREAMS EVENTS.
import { readFileSync, writeFileSync } from 'node:fs';
import { createParser } from 'eventsource-parser';

const [streams, events] = process.argv.slice(2);
writeFileSync(events, JSON.stringify(JSON.parse(readFileSync(streams)).map((base64, n) => {
  const text = new TextDecoder().decode(Buffer.from(base64, 'base64')); // strips a byte order mark
  const seen = { events: [], retry: 0 };
  const parser = createParser({
    onEvent: ({ event = 'message', data, id }) => seen.events.push({ name: event, data, id: id ?? null }),
    onRetry: (ms) => { seen.retry = ms; },
  });
  for (let at = 0, end; at < text.length; at = end) {
    for (end = at + 1 + n % 40; text[end - 1] === '\r'; end++); // after a CR it waits, and not only for a LF
    parser.feed(text.slice(at, end));
  }
  if (text.endsWith('\r')) parser.feed('\n');
  return seen;
})));
