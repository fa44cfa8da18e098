// Signing in to a protected MCP server: with a browser, once for several bridges; refresh with rotation; revocation; a
// code that is entered elsewhere; a program with a key.
//
//	node oidc.mjs BRIDGE
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { browse, standInBrowser } from './browser.mjs';
import { connect, say, throughBridge, until } from './lib.mjs';
import { protectedServer, who } from './protected.mjs';

const [, , bridge] = process.argv;
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'oidc-'));
process.env.MCP_REMOTE_CONFIG_DIR = path.join(home, 'store');
process.env.PATH = `${standInBrowser(home)}${path.delimiter}${process.env.PATH}`;
const machine = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const server = await protectedServer({ lifetime: 4, machineKey: machine.publicKey });
const { count } = server;

// Several bridges that are started together: one registration, one sign-in.
const several = await Promise.all(Array.from({ length: 4 }, () => throughBridge(bridge, server, '--debug')));
for (const client of several) assert.equal(await who(client), 'somebody');
assert.deepEqual([count.registration, count.authorization_code], [1, 1]);
say('four bridges, one sign-in');

// Their tokens end together, again and again: one of them refreshes, and the grant survives.
for (let round = 1; round <= 3; round++) {
  await until('a refresh', () => count.refresh_token >= round);
  for (const client of several) assert.equal(await who(client), 'somebody');
}
assert(count.refresh_token <= 4, `${count.refresh_token} refreshes`);
assert.equal(count.authorization_code, 1);
say(`${count.refresh_token} refreshes for four bridges`);
for (const client of several) await client.close();
assert(server.secrets.length >= 8 && several[0].talk.includes('asking for a token'), 'nothing to look for, or nowhere');
for (const secret of server.secrets) assert(!several.some((client) => client.talk.includes(secret)), 'a secret was logged');

// The next start needs nobody.
const again = await throughBridge(bridge, server);
assert.equal(await who(again), 'somebody');
await again.close();
assert.equal(count.authorization_code, 1);
say('started again without a browser');

await promisify(execFile)(bridge, ['logout', server.url]);
const left = fs.readdirSync(path.join(process.env.MCP_REMOTE_CONFIG_DIR, 'mcp-remote-v1')).filter((f) => !f.startsWith('bridge'));
assert.deepEqual(left, []);
say('signed out');

// A code that is entered elsewhere.
const stdio = new StdioClientTransport({ command: bridge, args: [server.url, '--device-code'], stderr: 'pipe', env: { ...process.env } });
let talk = '';
stdio.stderr.on('data', (b) => { talk += b; });
const connecting = connect(stdio);
const [, address, user_code] = await until('the code', () => /open (\S+) and enter the code (\S+)/.exec(talk));
await browse(address, { user_code });
const byDevice = await connecting;
assert.equal(await who(byDevice), 'somebody');
await byDevice.close();
assert.equal(count.device_code, 1);
say('signed in with a device code');

// A program with a key of its own.
fs.writeFileSync(path.join(home, 'key.pem'), machine.privateKey.export({ format: 'pem', type: 'pkcs8' }), { mode: 0o600 });
process.env.MCP_REMOTE_CONFIG_DIR = path.join(home, 'machine');
const program = await throughBridge(bridge, server, '--client-credentials', '--client-private-key', path.join(home, 'key.pem'),
  '--static-oauth-client-info', '{"client_id":"machine"}', '--scope', 'mcp:use');
assert.equal(await who(program), 'machine');
await until('another grant', () => count.client_credentials >= 2);
assert.equal(await who(program), 'machine');
await program.close();
say('signed in as a program');

fs.rmSync(home, { recursive: true });
process.exit(0); // the servers stay open to the end
