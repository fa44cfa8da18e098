// The client under test of the conformance suite's client side: an official SDK (of CLIENT_ERA, old or new) with the
// bridge (BRIDGE, with --protocol PROTOCOL) between it and the suite's server. The suite gives the scenario in its
// environment variables and the server's address as the last argument.
import assert from 'node:assert/strict';

const { BRIDGE, CLIENT_ERA, PROTOCOL, MCP_CONFORMANCE_SCENARIO: scenario, MCP_CONFORMANCE_CONTEXT: context } = process.env;
const url = process.argv.at(-1);
const modern = CLIENT_ERA === 'new';

async function connect(capabilities, prepare = () => {}) {
  const parameters = { command: BRIDGE, args: [url, '--debug', '--protocol', PROTOCOL], stderr: 'inherit', env: { ...process.env } };
  const info = { name: 'conformance-client', version: '1.0.0' };
  if (modern) {
    const { Client } = await import('@modelcontextprotocol/client');
    const { StdioClientTransport } = await import('@modelcontextprotocol/client/stdio');
    const client = new Client(info, { capabilities, versionNegotiation: { mode: 'auto' } });
    prepare(client, 'elicitation/create');
    await client.connect(new StdioClientTransport(parameters));
    assert.equal(client.getNegotiatedProtocolVersion(), '2026-07-28');
    return client;
  }
  const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
  const { StdioClientTransport } = await import('@modelcontextprotocol/sdk/client/stdio.js');
  const { ElicitRequestSchema } = await import('@modelcontextprotocol/sdk/types.js');
  const client = new Client(info, { capabilities });
  prepare(client, ElicitRequestSchema);
  await client.connect(new StdioClientTransport(parameters));
  return client;
}

const accept = (content) => (client, elicitation) => client.setRequestHandler(elicitation, () => ({ action: 'accept', content }));
const names = (tools) => tools.map((t) => t.name);

const scenarios = {
  initialize: async () => (await listed({})).client,
  'request-metadata': async () => (await listed({ roots: { listChanged: true }, sampling: {}, elicitation: {} })).client,
  'json-schema-ref-no-deref': async () => (await listed({})).client,
  tools_call: async () => {
    const { client } = await listed({});
    const result = await client.callTool({ name: 'add_numbers', arguments: { a: 5, b: 3 } });
    assert.match(JSON.stringify(result.content), /8/);
    return client;
  },
  'sse-retry': async () => {
    const { client } = await listed({});
    await client.callTool({ name: 'test_reconnection', arguments: {} });
    return client;
  },
  'elicitation-sep1034-client-defaults': async () => {
    const { client } = await listed({ elicitation: { form: { applyDefaults: true } } }, accept({}));
    await client.callTool({ name: 'test_client_elicitation_defaults', arguments: {} });
    return client;
  },
  'json-schema-2020-12-preservation': async () => {
    const { client, tools } = await listed({});
    const { inputSchema } = tools.find((t) => t.name === 'json_schema_2020_12_tool');
    await client.callTool({ name: 'json_schema_echo', arguments: { schema: inputSchema } });
    return client;
  },
  'http-standard-headers': async () => {
    const { client, tools } = await listed({});
    for (const name of names(tools)) await client.callTool({ name, arguments: {} });
    for (const { uri } of (await client.listResources()).resources) await client.readResource({ uri });
    for (const { name } of (await client.listPrompts()).prompts) await client.getPrompt({ name, arguments: {} });
    return client;
  },
  'http-custom-headers': async () => {
    const { client } = await listed({});
    for (const call of JSON.parse(context).toolCalls) await client.callTool({ name: call.name, arguments: call.arguments });
    return client;
  },
  'http-invalid-tool-headers': async () => {
    const { client, tools } = await listed({});
    assert.deepEqual(names(tools), ['valid_tool']);
    await client.callTool({ name: 'valid_tool', arguments: { region: 'us-west1' } });
    return client;
  },
  'sep-2322-client-request-state': async () => {
    const { client } = await listed({ elicitation: {} }, accept({ confirmed: true }));
    for (const name of ['test_mrtr_echo_state', 'test_mrtr_no_state', 'test_mrtr_unrelated']) await client.callTool({ name, arguments: {} });
    // The SDK, not the bridge, refuses a result without resultType; what counts is that nobody asks again.
    await client.callTool({ name: 'test_mrtr_no_result_type', arguments: {} }).catch((e) => console.error(`${e}`));
    return client;
  },
};

async function listed(capabilities, prepare) {
  const client = await connect(capabilities, prepare);
  return { client, ...(await client.listTools()) };
}

const client = await scenarios[scenario]();
await client.close();
