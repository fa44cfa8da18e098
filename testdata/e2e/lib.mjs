// What the drivers share: servers as child processes, clients, and a plain report.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CreateMessageRequestSchema, ElicitRequestSchema, ListRootsRequestSchema,
  LoggingMessageNotificationSchema, ResourceUpdatedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';

export const began = Date.now();
export const say = (text) => console.log(`${((Date.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}`);
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// freePort finds a port that nobody listens on.
export async function freePort() {
  const s = net.createServer().listen(0, '127.0.0.1');
  await once(s, 'listening');
  const { port } = s.address();
  s.close();
  await once(s, 'close');
  return port;
}

// until polls for a condition; it never decides by time alone, the limit only ends a hang.
export async function until(what, condition, limit = 60_000) {
  for (const end = Date.now() + limit; ;) {
    const got = await condition();
    if (got) return got;
    assert(Date.now() < end, `still waiting for ${what} after ${limit} ms`);
    await sleep(20);
  }
}

// An Everything is the reference server as a child process on one port.
export class Everything {
  constructor(mode, port) {
    Object.assign(this, { mode, port, output: '' });
    this.url = `http://127.0.0.1:${port}/${mode === 'sse' ? 'sse' : 'mcp'}`;
  }

  async start() {
    const script = new URL('node_modules/@modelcontextprotocol/server-everything/dist/index.js', new URL('../', import.meta.url));
    this.child = spawn(process.execPath, ['--import', new URL('loopback.mjs', import.meta.url).href, script.pathname, this.mode],
      { env: { ...process.env, PORT: String(this.port) }, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const s of [this.child.stdout, this.child.stderr]) s.on('data', (b) => { this.output += b; });
    await until('the server', () => new Promise((resolve) => {
      const c = net.connect(this.port, '127.0.0.1', () => { c.destroy(); resolve(true); });
      c.on('error', () => resolve(false));
    }));
  }

  async kill() {
    const gone = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await gone;
  }
}

// connect makes a client that can answer everything that the reference server asks.
export async function connect(transport) {
  const client = new Client({ name: 'driver', version: '1.0.0' },
    { capabilities: { sampling: {}, elicitation: {}, roots: { listChanged: true } } });
  client.logged = [];
  client.updated = [];
  client.setRequestHandler(CreateMessageRequestSchema, (r) => ({
    role: 'assistant', model: 'none', stopReason: 'endTurn',
    content: { type: 'text', text: `answer to ${r.params.messages[0].content.text}` },
  }));
  client.setRequestHandler(ElicitRequestSchema, () => ({ action: 'accept', content: { name: 'A. Nobody', check: true } }));
  client.setRequestHandler(ListRootsRequestSchema, () => ({ roots: [{ uri: 'file:///tmp/none', name: 'none' }] }));
  client.setNotificationHandler(LoggingMessageNotificationSchema, (n) => { client.logged.push(n.params); });
  client.setNotificationHandler(ResourceUpdatedNotificationSchema, (n) => { client.updated.push(n.params.uri); });
  await client.connect(transport);
  // The SDK forgets a call's progress handler when the answer stands in the same chunk: what really came is
  // seen only here.
  client.progress = [];
  const { onmessage } = transport;
  transport.onmessage = (m, extra) => {
    if (m.method === 'notifications/progress') client.progress.push([m.params.progress, m.params.total]);
    onmessage(m, extra);
  };
  return client;
}

export const overHTTP = (server) => connect(server.mode === 'sse'
  ? new SSEClientTransport(new URL(server.url)) : new StreamableHTTPClientTransport(new URL(server.url)));

// throughBridge starts the bridge over stdio; what it writes to stderr is kept in client.talk.
export async function throughBridge(binary, server, ...flags) {
  const transport = new StdioClientTransport({
    command: binary, args: [server.url, ...flags], stderr: 'pipe',
    env: { ...process.env },
  });
  let talk = '';
  transport.stderr.on('data', (b) => { talk += b; });
  const client = await connect(transport);
  Object.defineProperty(client, 'talk', { get: () => talk });
  client.pid = transport.pid;
  return client;
}
