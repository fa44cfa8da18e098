// A protected MCP server behind an OpenID provider that knows nothing of MCP: signing in with a browser, once for
// several bridges; refresh with rotation; revocation; a code on another device; a program with a key.
//
//	node oidc.mjs BRIDGE
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { Provider } from 'oidc-provider';
import { browse, standInBrowser } from './browser.mjs';
import { connect, say, throughBridge, until } from './lib.mjs';

const [, , bridge] = process.argv;
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'oidc-'));
process.env.MCP_REMOTE_CONFIG_DIR = path.join(home, 'store');
process.env.PATH = `${standInBrowser(home)}${path.delimiter}${process.env.PATH}`;

const listening = async (handler) => {
  const server = http.createServer(handler).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, origin: `http://127.0.0.1:${server.address().port}` };
};

// The provider. Access tokens last four seconds, refresh tokens are rotated and their reuse revokes the grant.
let answer = (req, res) => res.destroy();
const login = await listening((req, res) => answer(req, res));
const protectedServer = await listening((req, res) => guard(req, res));
const resource = `${protectedServer.origin}/mcp`;
const machine = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const provider = new Provider(login.origin, {
  clients: [{
    client_id: 'machine', token_endpoint_auth_method: 'private_key_jwt', grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
    token_endpoint_auth_signing_alg: 'ES256', jwks: { keys: [{ ...machine.publicKey.export({ format: 'jwk' }), use: 'sig' }] },
  }],
  cookies: { keys: ['not a secret'] },
  scopes: ['openid', 'offline_access', 'mcp:use'],
  pkce: { required: () => true },
  rotateRefreshToken: true,
  ttl: { AccessToken: 4, ClientCredentials: 4, RefreshToken: 600, Grant: 600, Session: 600, Interaction: 600, IdToken: 600, DeviceCode: 600 },
  features: {
    clientCredentials: { enabled: true }, deviceFlow: { enabled: true }, registration: { enabled: true }, revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, indicator) => {
        assert.equal(indicator, resource);
        return { scope: 'mcp:use', audience: resource, accessTokenFormat: 'opaque' };
      },
    },
  },
});
answer = provider.callback();
const count = { authorization_code: 0, refresh_token: 0, 'urn:ietf:params:oauth:grant-type:device_code': 0, client_credentials: 0 };
provider.on('grant.success', (ctx) => { count[ctx.oidc.params.grant_type]++; });
for (const event of ['server_error', 'grant.error', 'authorization.error', 'registration_create.error', 'revocation.error']) {
  provider.on(event, (ctx, error) => {
    if (error.error !== 'authorization_pending') say(`the provider: ${event}: ${error.message} ${error.error_description ?? ''}`);
  });
}
let registrations = 0;
provider.on('registration_create.success', () => { registrations++; });

// The MCP server: one tool that says who calls.
async function guard(req, res) {
  if (req.url === '/.well-known/oauth-protected-resource/mcp') {
    res.setHeader('Content-Type', 'application/json');
    res.end(JSON.stringify({ resource, authorization_servers: [login.origin], scopes_supported: ['openid', 'mcp:use'] }));
    return;
  }
  const bearer = /^Bearer (.+)$/.exec(req.headers.authorization ?? '')?.[1];
  const token = bearer && (await provider.AccessToken.find(bearer) ?? await provider.ClientCredentials.find(bearer));
  if (!token || token.isExpired || token.aud !== resource) {
    res.writeHead(401, { 'WWW-Authenticate': `Bearer resource_metadata="${protectedServer.origin}/.well-known/oauth-protected-resource/mcp"` }).end();
    return;
  }
  const server = new McpServer({ name: 'protected', version: '1.0.0' });
  server.registerTool('who', {}, () => ({ content: [{ type: 'text', text: token.accountId ?? token.clientId }] }));
  const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
  res.on('close', () => { transport.close(); server.close(); });
  await server.connect(transport);
  await transport.handleRequest(req, res);
}

const who = async (client) => (await client.callTool({ name: 'who', arguments: {} })).content[0].text;
const server = { url: resource };
const run = promisify(execFile);

// Several bridges that are started together: one registration, one sign-in.
const several = await Promise.all(Array.from({ length: 4 }, () => throughBridge(bridge, server, '--debug')));
for (const client of several) assert.equal(await who(client), 'somebody');
assert.deepEqual([registrations, count.authorization_code], [1, 1]);
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

// The next start needs nobody.
const again = await throughBridge(bridge, server);
assert.equal(await who(again), 'somebody');
await again.close();
assert.equal(count.authorization_code, 1);
say('started again without a browser');

await run(bridge, ['logout', resource]);
const left = fs.readdirSync(path.join(process.env.MCP_REMOTE_CONFIG_DIR, 'mcp-remote-v1')).filter((f) => !f.startsWith('bridge'));
assert.deepEqual(left, []);
say('signed out');

// A code that is entered elsewhere.
const stdio = new StdioClientTransport({ command: bridge, args: [resource, '--device-code'], stderr: 'pipe', env: { ...process.env } });
let talk = '';
stdio.stderr.on('data', (b) => { talk += b; });
const connecting = connect(stdio);
const [, address, user_code] = await until('the code', () => /open (\S+) and enter the code (\S+)/.exec(talk));
await browse(address, { user_code });
const byDevice = await connecting;
assert.equal(await who(byDevice), 'somebody');
await byDevice.close();
assert.equal(count['urn:ietf:params:oauth:grant-type:device_code'], 1);
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

login.server.close();
protectedServer.server.close();
fs.rmSync(home, { recursive: true });
process.exit(0);
