// The reference server through the bridge: everything that a client can do has the same result as over HTTP
// directly, and a server that is killed and started again is no reason for a call to fail.
//
//	node everything.mjs BRIDGE streamableHttp|sse
import assert from 'node:assert/strict';
import { Everything, freePort, overHTTP, say, throughBridge, until } from './lib.mjs';

const [, , binary, mode] = process.argv;

// same replaces what differs from one session to the next.
const same = (v) => JSON.parse(JSON.stringify(v)
  .replace(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, 'UUID')
  .replace(/\d{1,2}:\d\d:\d\d( [AP]M)?/g, 'TIME')
  .replace(/("blob":")[^"]*/g, '$1BLOB')); // the time of day is in it

// exercise does everything once and returns what came of it.
async function exercise(client) {
  const got = {};
  const call = (name, args = {}, options) => client.callTool({ name, arguments: args }, undefined, options);

  got.server = [client.getServerVersion(), client.getServerCapabilities(), client.getInstructions()];
  got.ping = await client.ping();
  got.tools = await client.listTools();
  got.echo = await call('echo', { message: 'grüße, 世界 \u2028 "quoted"\nsecond line' });
  got.sum = await call('get-sum', { a: 1.5, b: 2 });
  got.image = await call('get-tiny-image');
  assert(got.image.content.some((c) => c.type === 'image' && c.data.length > 100), 'no image');
  got.annotated = await call('get-annotated-message', { messageType: 'error', includeImage: true });
  got.structured = await call('get-structured-content', { location: 'Chicago' });
  got.links = await call('get-resource-links', { count: 3 });
  got.reference = await call('get-resource-reference', { resourceType: 'Text', resourceId: 1 });
  got.unknown = await call('no-such-tool').catch((e) => ({ thrown: e.code, message: e.message }));
  got.wrong = await call('get-sum', { a: 'x' }).catch((e) => ({ thrown: e.code, message: e.message }));

  client.progress.length = 0;
  got.long = await call('trigger-long-running-operation', { duration: 1, steps: 5 },
    { onprogress: () => {}, resetTimeoutOnProgress: true });
  got.progress = [...client.progress];
  assert.equal(got.progress.length, 5, 'progress notifications');

  // Many at once: each gets its own answer.
  got.many = await Promise.all(Array.from({ length: 50 }, (_, i) => call('echo', { message: `number ${i}` })));
  got.many.forEach((r, i) => assert.equal(r.content[0].text, `Echo: number ${i}`));

  got.resources = await client.listResources();
  got.templates = await client.listResourceTemplates();
  got.static = await client.readResource({ uri: got.resources.resources[0].uri });
  got.text = await client.readResource({ uri: 'demo://resource/dynamic/text/7' });
  got.blob = await client.readResource({ uri: 'demo://resource/dynamic/blob/8' });
  got.missing = await client.readResource({ uri: 'demo://nowhere' }).catch((e) => ({ thrown: e.code, message: e.message }));

  const uri = 'demo://resource/dynamic/text/7';
  got.subscribed = await client.subscribeResource({ uri });
  got.updates = await call('toggle-subscriber-updates');
  await until('resources/updated', () => client.updated.includes(uri));
  got.stopped = await call('toggle-subscriber-updates');
  got.unsubscribed = await client.unsubscribeResource({ uri });

  got.prompts = await client.listPrompts();
  got.prompt = await client.getPrompt({ name: 'args-prompt', arguments: { city: 'Chicago', state: 'Illinois' } });
  got.simple = await client.getPrompt({ name: 'simple-prompt' });
  got.completion = await client.complete({
    ref: { type: 'ref/prompt', name: 'completable-prompt' }, argument: { name: 'department', value: 'E' },
  });

  got.level = await client.setLoggingLevel('debug');
  client.logged.length = 0;
  got.logging = await call('toggle-simulated-logging');
  await until('a log message', () => client.logged.length > 0);
  got.quiet = await call('toggle-simulated-logging');

  got.sampling = await call('trigger-sampling-request', { prompt: 'what is up?', maxTokens: 10 });
  assert.match(JSON.stringify(got.sampling), /answer to/);
  got.elicitation = await call('trigger-elicitation-request');
  assert.match(JSON.stringify(got.elicitation), /A\. Nobody/);
  got.roots = await call('get-roots-list');
  return same(got);
}

const server = new Everything(mode, await freePort());
await server.start();
let bridge;
try {
  const direct = await overHTTP(server);
  const want = await exercise(direct);
  await direct.close();
  say(`over HTTP directly: ${Object.keys(want).length} results`);

  bridge = await throughBridge(binary, server);
  const got = await exercise(bridge);
  for (const [name, result] of Object.entries(want)) assert.deepEqual(got[name], result, `${name} differs`);
  say('through the bridge: the same');

  // Killed between two calls.
  await server.kill();
  await server.start();
  assert.equal((await bridge.callTool({ name: 'echo', arguments: { message: 'again' } })).content[0].text, 'Echo: again');
  say('killed and started again: the next call succeeds');

  // Killed while a call that may be repeated is running, and away for a while.
  await bridge.listTools();
  const long = bridge.callTool({ name: 'trigger-long-running-operation', arguments: { duration: 2, steps: 4 } });
  await new Promise((resolve) => setTimeout(resolve, 500));
  await server.kill();
  const held = bridge.callTool({ name: 'get-sum', arguments: { a: 20, b: 22 } });
  await new Promise((resolve) => setTimeout(resolve, 1500));
  await server.start();
  assert.match((await held).content[0].text, /42/);
  assert.match((await long).content[0].text, /completed/);
  say('killed in the middle of a call: the call succeeds, and one that was made meanwhile');

  // And everything works as on the first day.
  const after = await exercise(bridge);
  for (const [name, result] of Object.entries(want)) assert.deepEqual(after[name], result, `${name} differs after the restart`);
  say('everything once more: the same');

  server.output = '';
  const closing = Date.now();
  await bridge.close();
  assert.throws(() => process.kill(bridge.pid, 0), 'the bridge is still there');
  const took = Date.now() - closing;
  assert(took < 1900, `the bridge took ${took} ms to end: the client had to signal`);
  if (mode !== 'sse') assert.match(server.output, /session termination/, 'the session was not ended');
  say(`the bridge ended ${took} ms after its input did, and the session with it`);
} catch (e) {
  console.log(`--- the bridge said:\n${bridge?.talk}`);
  throw e;
} finally {
  await server.kill();
}
process.exit(0);
