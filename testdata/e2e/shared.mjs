// One sign-in for both programs: what mcp-remote has stored serves the bridge, what the bridge has stored serves
// mcp-remote, and when they are started together one of them leads.
//
//	node shared.mjs BRIDGE
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { browse, standInBrowser } from './browser.mjs';
import { connect, say } from './lib.mjs';
import { protectedServer, who } from './protected.mjs';

const [, , bridge] = process.argv;
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'shared-'));
const PATH = `${standInBrowser(home)}${path.delimiter}${process.env.PATH}`;
const programs = {
  'mcp-remote': [process.execPath, fileURLToPath(new URL('../node_modules/mcp-remote/dist/proxy.js', import.meta.url))],
  'mcp-redial': [bridge],
};
let store = '';

async function start(program, server) {
  const [command, ...args] = programs[program];
  const transport = new StdioClientTransport({
    command, args: [...args, server.url], stderr: 'pipe', env: { ...process.env, PATH, MCP_REMOTE_CONFIG_DIR: store },
  });
  let talk = '';
  let opened = false;
  transport.stderr.on('data', (b) => {
    talk += b;
    const [, address] = /by visiting:\s+(\S+)\s/.exec(talk) ?? []; // mcp-remote has other ideas where a browser is found
    if (address && !opened) browse(address).catch((e) => say(`${e}`));
    opened ||= Boolean(address);
  });
  return connect(transport).catch((error) => { throw new Error(`${program}: ${error}\n${talk}`); });
}

for (const [first, second] of [['mcp-remote', 'mcp-redial'], ['mcp-redial', 'mcp-remote']]) {
  const server = await protectedServer({ lifetime: 600 });
  store = path.join(home, `${first} first`);
  for (const program of [first, second, first]) {
    const client = await start(program, server);
    assert.equal(await who(client), 'somebody');
    await client.close();
  }
  assert.deepEqual([server.count.authorization_code, server.count.registration], [1, 1]);
  say(`${second} uses what ${first} has stored`);
}

const server = await protectedServer({ lifetime: 600 });
store = path.join(home, 'together');
const clients = await Promise.all(['mcp-redial', 'mcp-remote', 'mcp-redial', 'mcp-remote'].map((p) => start(p, server)));
for (const client of clients) assert.equal(await who(client), 'somebody');
for (const client of clients) await client.close();
assert.deepEqual([server.count.authorization_code], [1]);
say('started together, one sign-in');

fs.rmSync(home, { recursive: true });
process.exit(0);
