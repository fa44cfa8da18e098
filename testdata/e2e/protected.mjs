// A protected MCP server, with one tool that says who calls, behind an OpenID provider that knows nothing of MCP.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { Provider } from 'oidc-provider';
import { say } from './lib.mjs';

const listening = async (handler) => {
  const server = http.createServer(handler).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, origin: `http://127.0.0.1:${server.address().port}` };
};

// protectedServer starts both. Access tokens last for the seconds given, refresh tokens are rotated and their reuse
// revokes the grant. count is how often each grant succeeded; machineKey is the public key of the client "machine".
export async function protectedServer({ lifetime, machineKey }) {
  let answer = (req, res) => res.destroy();
  const login = await listening((req, res) => answer(req, res));
  const mcp = await listening((req, res) => guard(req, res));
  const resource = `${mcp.origin}/mcp`;
  const provider = new Provider(login.origin, {
    clients: machineKey ? [{
      client_id: 'machine', token_endpoint_auth_method: 'private_key_jwt', grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
      token_endpoint_auth_signing_alg: 'ES256', jwks: { keys: [{ ...machineKey.export({ format: 'jwk' }), use: 'sig' }] },
    }] : [],
    cookies: { keys: ['not a secret'] },
    scopes: ['openid', 'offline_access', 'mcp:use'],
    pkce: { required: () => true },
    rotateRefreshToken: true,
    ttl: {
      AccessToken: lifetime, ClientCredentials: lifetime, RefreshToken: 600, Grant: 600, Session: 600, Interaction: 600, IdToken: 600, DeviceCode: 600,
    },
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

  const count = { registration: 0, authorization_code: 0, refresh_token: 0, device_code: 0, client_credentials: 0 };
  provider.on('grant.success', (ctx) => { count[ctx.oidc.params.grant_type.replace('urn:ietf:params:oauth:grant-type:', '')]++; });
  provider.on('registration_create.success', () => { count.registration++; });
  for (const event of ['server_error', 'grant.error', 'authorization.error', 'registration_create.error', 'revocation.error']) {
    provider.on(event, (ctx, error) => {
      if (error.error !== 'authorization_pending') say(`the provider: ${event}: ${error.message} ${error.error_description ?? ''}`);
    });
  }

  const secrets = []; // everything that was issued
  for (const event of ['access_token.saved', 'refresh_token.saved', 'authorization_code.saved', 'device_code.saved', 'client_credentials.saved']) {
    provider.on(event, (token) => secrets.push(token.jti));
  }

  async function guard(req, res) {
    if (req.url === '/.well-known/oauth-protected-resource/mcp') {
      res.setHeader('Content-Type', 'application/json');
      res.end(JSON.stringify({ resource, authorization_servers: [login.origin], scopes_supported: ['openid', 'mcp:use'] }));
      return;
    }
    const bearer = /^Bearer (.+)$/.exec(req.headers.authorization ?? '')?.[1];
    const token = bearer && (await provider.AccessToken.find(bearer) ?? await provider.ClientCredentials.find(bearer));
    if (!token || token.isExpired || token.aud !== resource) {
      res.writeHead(401, { 'WWW-Authenticate': `Bearer resource_metadata="${mcp.origin}/.well-known/oauth-protected-resource/mcp"` }).end();
      return;
    }
    const server = new McpServer({ name: 'protected', version: '1.0.0' });
    server.registerTool('who', {}, () => ({ content: [{ type: 'text', text: token.accountId ?? token.clientId }] }));
    const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
    res.on('close', () => { transport.close(); server.close(); });
    await server.connect(transport);
    await transport.handleRequest(req, res);
  }
  return { url: resource, count, secrets };
}

export const who = async (client) => (await client.callTool({ name: 'who', arguments: {} })).content[0].text;
