// The client under test of the conformance suite's authorization scenarios: an official SDK (of CLIENT_ERA, old or new)
// over stdio, the bridge (BRIDGE) below it, and a stand-in for the browser.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { standInBrowser } from './browser.mjs';

const { BRIDGE, CLIENT_ERA, MCP_CONFORMANCE_SCENARIO: scenario, MCP_CONFORMANCE_CONTEXT: given } = process.env;
const url = process.argv.at(-1);
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'conformance-'));
const { client_id, client_secret, issuer, private_key_pem } = JSON.parse(given ?? '{}');

const flags = ['--debug'];
if (scenario === 'auth/basic-cimd') flags.push('--client-metadata-url', 'https://conformance-test.local/client-metadata.json');
if (client_id) flags.push('--static-oauth-client-info', JSON.stringify({ client_id, client_secret, issuer }));
if (scenario.startsWith('auth/client-credentials-')) flags.push('--client-credentials');
if (private_key_pem) {
  const file = path.join(home, 'key.pem');
  fs.writeFileSync(file, private_key_pem, { mode: 0o600 });
  flags.push('--client-private-key', file);
}

const modern = CLIENT_ERA === 'new';
const { Client } = modern ? await import('@modelcontextprotocol/client') : await import('@modelcontextprotocol/sdk/client/index.js');
const { StdioClientTransport } = await import(modern ? '@modelcontextprotocol/client/stdio' : '@modelcontextprotocol/sdk/client/stdio.js');
const transport = new StdioClientTransport({
  command: BRIDGE, args: [url, ...flags], stderr: 'inherit',
  env: { ...process.env, MCP_REMOTE_CONFIG_DIR: home, PATH: `${standInBrowser(home)}${path.delimiter}${process.env.PATH}` },
});
const client = new Client({ name: 'conformance-client', version: '1.0.0' }, modern ? { versionNegotiation: { mode: 'auto' } } : {});
try {
  await client.connect(transport);
  const { tools } = await client.listTools();
  for (const { name } of tools) console.log(JSON.stringify(await client.callTool({ name, arguments: {} })));
} finally {
  await client.close();
  fs.rmSync(home, { recursive: true });
}
