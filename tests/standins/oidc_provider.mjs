// Starts the certified `oidc-provider` on a free loopback port, for tests.
//
// stdin: one line of JSON, {"clients": [...], "ttl": 300, "resources": {"https://api": "read write"}}.
// stdout: one line of JSON, {"issuer": "http://127.0.0.1:PORT"}, once it listens. It ends when stdin ends.
// Each resource server gets JWTs (RFC 9068) with the client's `owner` and `agent_type` as claims.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

// The packages are in a cache folder, not beside this file, so they are resolved from there.
const require = createRequire(pathToFileURL(join(process.argv[2], 'package.json')));
const load = (name) => import(pathToFileURL(require.resolve(name)));

const lines = createInterface({ input: process.stdin });
const asked = JSON.parse(await new Promise((resolve) => lines.once('line', resolve)));
lines.once('close', () => process.exit(0));

const { default: Provider, errors } = await load('oidc-provider');
const { exportJWK, generateKeyPair } = await load('jose');

const { privateKey } = await generateKeyPair('ES256', { extractable: true });
const key = { ...(await exportJWK(privateKey)), kid: 'idp', alg: 'ES256', use: 'sig' };

let handle = (_, response) => response.writeHead(503).end();
const server = createServer((request, response) => handle(request, response));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: asked.clients.map((client) => ({
    grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
    id_token_signed_response_alg: 'ES256', ...client,
  })),
  jwks: { keys: [key] },
  scopes: [...new Set(Object.values(asked.resources).flatMap((scopes) => scopes.split(' ')))],
  extraClientMetadata: { properties: ['owner', 'agent_type', 'utf8_secret'] },
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt'],
  enabledJWA: { clientAuthSigningAlgValues: ['RS256', 'PS256', 'ES256'] },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => {
        if (!(resource in asked.resources)) throw new errors.InvalidTarget();
        return {
          scope: asked.resources[resource], audience: resource, accessTokenTTL: asked.ttl,
          accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } },
        };
      },
    },
  },
  extraTokenClaims: (ctx) => {
    const { owner, agent_type } = ctx.oidc.client;
    return { owner, agent_type };
  },
});
// Registration takes only ASCII secrets (RFC 6749 Appendix A.2); other servers do not mind, so one can be compared here.
const compare = provider.Client.prototype.compareClientSecret;
provider.Client.prototype.compareClientSecret = function compareUtf8(actual) {
  return this.utf8_secret === undefined ? compare.call(this, actual) : this.utf8_secret === actual;
};
handle = provider.callback();
process.stdout.write(`${JSON.stringify({ issuer })}\n`);
