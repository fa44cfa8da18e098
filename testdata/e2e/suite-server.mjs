// A server on the official SDK with all that the conformance suite's server side asks for, of both eras: sessions up to
// 2025-11-25, and 2026-07-28. It prints its port when it listens.
import { createHmac, randomBytes, randomUUID, timingSafeEqual } from 'node:crypto';
import http from 'node:http';
import { NodeStreamableHTTPServerTransport, toNodeHandler } from '@modelcontextprotocol/node';
import { classifyInboundRequest, createMcpHandler, inputRequired, ProtocolError, Server } from '@modelcontextprotocol/server';

const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const wav = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA=';
const pause = () => new Promise((resolve) => setTimeout(resolve, 50));
const text = (t) => ({ type: 'text', text: t });
const says = (...content) => ({ content: content.map((c) => (typeof c === 'string' ? text(c) : c)) });
const image = { type: 'image', data: png, mimeType: 'image/png' };
const resource = (uri, mimeType, t) => ({ type: 'resource', resource: { uri, mimeType, text: t } });
const form = (message, properties, required = Object.keys(properties)) => ({ message, requestedSchema: { type: 'object', properties, required } });

// requestState that nobody else can make.
const secret = randomBytes(32);
const seal = (state) => {
  const body = Buffer.from(JSON.stringify({ ...state, nonce: randomUUID() })).toString('base64url');
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
};
const unseal = (sealed) => {
  const [body, mac = ''] = String(sealed).split('.');
  const want = createHmac('sha256', secret).update(body).digest();
  const got = Buffer.from(mac, 'base64url');
  if (got.length !== want.length || !timingSafeEqual(got, want)) throw new ProtocolError(-32602, 'requestState was tampered with');
  return JSON.parse(Buffer.from(body, 'base64url'));
};

const name = { name: { type: 'string' } };
const askName = () => inputRequired.elicit(form('What is your name?', name));
const askModel = (t) => inputRequired.createMessage({ messages: [{ role: 'user', content: text(t) }], maxTokens: 100 });
const accepted = (answers, key) => (answers?.[key]?.action === 'accept' ? answers[key].content : undefined);
const state = (ctx) => ctx.mcpReq.requestState?.();
const elicit = async (ctx, params) => {
  const r = await ctx.mcpReq.send({ method: 'elicitation/create', params });
  return says(`Elicitation completed: action=${r.action}, content=${JSON.stringify(r.content ?? {})}`);
};
const object = (properties = {}, more = {}) => ({ type: 'object', properties, ...more });

let modern; // the handler of 2026-07-28
const tools = {
  test_simple_text: () => says('This is a simple text response for testing.'),
  test_image_content: () => says(image),
  test_audio_content: () => says({ type: 'audio', data: wav, mimeType: 'audio/wav' }),
  test_embedded_resource: () => says(resource('test://embedded-resource', 'text/plain', 'This is an embedded resource content.')),
  test_multiple_content_types: () => says('Multiple content types test:', image, resource('test://mixed-content-resource', 'application/json', '{"test":"data","value":123}')),
  test_error_handling: () => ({ ...says('This tool intentionally returns an error for testing'), isError: true }),
  test_tool_with_logging: async (args, ctx) => {
    for (const data of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
      await ctx.mcpReq.notify({ method: 'notifications/message', params: { level: 'info', data } });
      await pause();
    }
    return says('logged three times');
  },
  test_tool_with_progress: async (args, ctx) => {
    const { progressToken } = ctx.mcpReq._meta ?? {};
    for (const progress of progressToken === undefined ? [] : [0, 50, 100]) {
      await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
      await pause();
    }
    return says(String(progressToken));
  },
  test_sampling: async ({ prompt }, ctx) => {
    const r = await ctx.mcpReq.send({ method: 'sampling/createMessage', params: { messages: [{ role: 'user', content: text(prompt) }], maxTokens: 100 } });
    return says(`LLM response: ${r.content.text}`);
  },
  test_elicitation: ({ message }, ctx) => elicit(ctx, form(message, { username: { type: 'string', description: "User's response" }, email: { type: 'string', description: "User's email address" } })),
  test_elicitation_sep1034_defaults: (args, ctx) => elicit(ctx, form('Please review', {
    name: { type: 'string', default: 'John Doe' }, age: { type: 'integer', default: 30 }, score: { type: 'number', default: 95.5 },
    status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' }, verified: { type: 'boolean', default: true },
  }, [])),
  test_elicitation_sep1330_enums: (args, ctx) => {
    const plain = ['option1', 'option2', 'option3'];
    const titled = [['value1', 'First Option'], ['value2', 'Second Option'], ['value3', 'Third Option']].map(([c, title]) => ({ const: c, title }));
    return elicit(ctx, form('Please choose', {
      untitledSingle: { type: 'string', enum: plain },
      titledSingle: { type: 'string', oneOf: titled },
      legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
      untitledMulti: { type: 'array', items: { type: 'string', enum: plain } },
      titledMulti: { type: 'array', items: { anyOf: titled } },
    }, []));
  },
  json_schema_2020_12_tool: () => says('called'),
  test_x_mcp_header: ({ region }) => says(`region=${region}`),
  test_missing_capability: (args, ctx) => (ctx.mcpReq.inputResponses ? says('done') : inputRequired({ inputRequests: { answer: askModel('pong?') } })),
  test_streaming_elicitation: () => says('nothing but a result'),
  test_logging_tool: async (args, ctx) => { await ctx.mcpReq.log('info', 'it ran'); return says('logged if it was wanted'); },
  test_trigger_tool_change: () => { modern.notify.toolsChanged(); return says('told'); },
  test_trigger_prompt_change: () => { modern.notify.promptsChanged(); return says('told'); },
  test_input_required_result_elicitation: (args, ctx) => {
    const got = accepted(ctx.mcpReq.inputResponses, 'user_name');
    return typeof got?.name === 'string' ? says(`Hello, ${got.name}!`) : inputRequired({ inputRequests: { user_name: askName() } });
  },
  test_input_required_result_sampling: (args, ctx) => {
    const got = ctx.mcpReq.inputResponses?.capital_question;
    return got ? says(JSON.stringify(got.content)) : inputRequired({ inputRequests: { capital_question: askModel('What is the capital of France?') } });
  },
  test_input_required_result_list_roots: (args, ctx) => {
    const got = ctx.mcpReq.inputResponses?.client_roots;
    return got ? says(got.roots.map((r) => r.uri).join(' ')) : inputRequired({ inputRequests: { client_roots: inputRequired.listRoots() } });
  },
  test_input_required_result_request_state: (args, ctx) => {
    if (accepted(ctx.mcpReq.inputResponses, 'confirm') && state(ctx)) return says('state-ok');
    return inputRequired({ inputRequests: { confirm: inputRequired.elicit(form('Please confirm', { ok: { type: 'boolean' } })) }, requestState: seal({ for: 'state' }) });
  },
  test_input_required_result_multiple_inputs: (args, ctx) => {
    const { user_name: who, greeting, client_roots: roots } = ctx.mcpReq.inputResponses ?? {};
    if (who && greeting && roots) return says('all three');
    return inputRequired({ inputRequests: { user_name: askName(), greeting: askModel('Generate a greeting'), client_roots: inputRequired.listRoots() }, requestState: seal({ for: 'multiple' }) });
  },
  test_input_required_result_multi_round: (args, ctx) => {
    const { round = 0 } = state(ctx) ?? {};
    if (round === 2) return says('three rounds');
    const asks = [inputRequired.elicit(form('Step 1: What is your name?', name)), inputRequired.elicit(form('Step 2: What is your favorite color?', { color: { type: 'string' } }))];
    return inputRequired({ inputRequests: { [`step${round + 1}`]: asks[round] }, requestState: seal({ round: round + 1 }) });
  },
  test_input_required_result_tampered_state: (args, ctx) => {
    if (state(ctx)) return says('state verified');
    return inputRequired({ inputRequests: { confirm: inputRequired.elicit(form('Please confirm', { ok: { type: 'boolean' } })) }, requestState: seal({ for: 'tampered' }) });
  },
  test_input_required_result_capabilities: (args, ctx) => {
    if (ctx.mcpReq.inputResponses) return says('fulfilled');
    const can = ctx.mcpReq._meta?.['io.modelcontextprotocol/clientCapabilities'] ?? ctx.mcpReq.envelope?.['io.modelcontextprotocol/clientCapabilities'] ?? {};
    const inputRequests = { ...(can.elicitation && { user_name: askName() }), ...(can.sampling && { greeting: askModel('hi') }), ...(can.roots && { client_roots: inputRequired.listRoots() }) };
    return Object.keys(inputRequests).length ? inputRequired({ inputRequests }) : says('nothing to ask with');
  },
};
const schemas = {
  test_sampling: object({ prompt: { type: 'string' } }, { required: ['prompt'] }),
  test_elicitation: object({ message: { type: 'string' } }, { required: ['message'] }),
  test_x_mcp_header: object({ region: { type: 'string', 'x-mcp-header': 'Region' } }),
  json_schema_2020_12_tool: {
    $schema: 'https://json-schema.org/draft/2020-12/schema', type: 'object',
    $defs: { address: { $anchor: 'addressDef', type: 'object', properties: { street: { type: 'string' }, city: { type: 'string' } } } },
    properties: { name: { type: 'string' }, address: { $ref: '#/$defs/address' }, contactMethod: { type: 'string', enum: ['phone', 'email'] }, phone: { type: 'string' }, email: { type: 'string' } },
    allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
    if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
    then: { required: ['phone'] }, else: { required: ['email'] }, additionalProperties: false,
  },
};

const resources = {
  'test://static-text': { mimeType: 'text/plain', text: 'This is the content of the static text resource.' },
  'test://static-binary': { mimeType: 'image/png', blob: png },
  'test://watched-resource': { mimeType: 'text/plain', text: 'Watched resource content' },
};
const says1 = (...content) => ({ messages: content.map((c) => ({ role: 'user', content: c })) });
const prompts = {
  test_simple_prompt: () => says1(text('This is a simple prompt for testing.')),
  test_prompt_with_arguments: ({ arg1, arg2 }) => says1(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)),
  test_prompt_with_embedded_resource: ({ resourceUri }) => says1(resource(resourceUri, 'text/plain', 'Embedded resource content for testing.'), text('Please process the embedded resource above.')),
  test_prompt_with_image: () => says1(image, text('Please analyze the image above.')),
  test_input_required_result_prompt: (args, ctx) => {
    const got = accepted(ctx.mcpReq.inputResponses, 'user_context');
    return got ? says1(text(`context: ${got.context}`)) : inputRequired({ inputRequests: { user_context: inputRequired.elicit(form('What context?', { context: { type: 'string' } })) } });
  },
};
const promptArguments = { test_prompt_with_arguments: ['arg1', 'arg2'], test_prompt_with_embedded_resource: ['resourceUri'] };

function make() {
  const list = { listChanged: true };
  const s = new Server({ name: 'suite-server', version: '1.0.0' }, {
    capabilities: { tools: list, prompts: list, resources: { ...list, subscribe: true }, logging: {}, completions: {} },
    requestState: { verify: (sealed) => unseal(sealed) },
  });
  s.setRequestHandler('tools/list', () => ({ tools: Object.keys(tools).map((n) => ({ name: n, description: `The suite's ${n}`, inputSchema: schemas[n] ?? object() })) }));
  s.setRequestHandler('tools/call', async ({ params }, ctx) => {
    const tool = tools[params.name];
    if (!tool) throw new ProtocolError(-32602, `Unknown tool: ${params.name}`);
    return tool(params.arguments ?? {}, ctx);
  });
  s.setRequestHandler('resources/list', () => ({ resources: Object.entries(resources).map(([uri, r]) => ({ uri, name: uri.slice(7), description: uri, mimeType: r.mimeType })) }));
  s.setRequestHandler('resources/templates/list', () => ({ resourceTemplates: [{ uriTemplate: 'test://template/{id}/data', name: 'template', description: 'by id', mimeType: 'application/json' }] }));
  s.setRequestHandler('resources/read', ({ params: { uri } }) => {
    const id = /^test:\/\/template\/([^/]+)\/data$/.exec(uri)?.[1];
    const r = id ? { mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) } : resources[uri];
    if (!r) throw new ProtocolError(-32602, `Resource not found: ${uri}`, { uri });
    return { contents: [{ uri, ...r }] };
  });
  s.setRequestHandler('resources/subscribe', () => ({}));
  s.setRequestHandler('resources/unsubscribe', () => ({}));
  s.setRequestHandler('prompts/list', () => ({ prompts: Object.keys(prompts).map((n) => ({ name: n, description: `The suite's ${n}`, arguments: (promptArguments[n] ?? []).map((a) => ({ name: a, description: a, required: true })) })) }));
  s.setRequestHandler('prompts/get', async ({ params }, ctx) => prompts[params.name](params.arguments ?? {}, ctx));
  s.setRequestHandler('completion/complete', () => ({ completion: { values: [], total: 0, hasMore: false } }));
  s.setRequestHandler('logging/setLevel', () => ({}));
  return s;
}

modern = createMcpHandler(make, { onerror: (e) => console.error(e) });
const serveModern = toNodeHandler(modern);
const sessions = new Map();

http.createServer(async (req, res) => {
  let raw = '';
  for await (const chunk of req.setEncoding('utf8')) raw += chunk;
  let body;
  try { body = raw ? JSON.parse(raw) : undefined; } catch { res.writeHead(400).end(); return; }
  const inbound = req.method === 'POST' && classifyInboundRequest({
    httpMethod: req.method, protocolVersionHeader: req.headers['mcp-protocol-version'], mcpMethodHeader: req.headers['mcp-method'], body,
  });
  if (inbound && inbound.kind !== 'legacy') return serveModern(req, res, body);
  let transport = sessions.get(req.headers['mcp-session-id']);
  if (!transport && body?.method === 'initialize') {
    transport = new NodeStreamableHTTPServerTransport({ sessionIdGenerator: randomUUID, onsessioninitialized: (id) => sessions.set(id, transport) });
    transport.onclose = () => sessions.delete(transport.sessionId);
    await make().connect(transport);
  }
  if (!transport) {
    res.writeHead(req.headers['mcp-session-id'] ? 404 : 400, { 'Content-Type': 'application/json' });
    return res.end('{"jsonrpc":"2.0","error":{"code":-32000,"message":"no such session"},"id":null}');
  }
  return transport.handleRequest(req, res, body);
}).listen(0, '127.0.0.1', function listening() { console.log(this.address().port); });
