// Starts the certified `oidc-provider` on a free loopback port, for tests.
//
// stdin: one line of JSON, {"clients": [...], "ttl": 300, "resources": {"https://api": "read write"}}.
// stdout: one line of JSON, {"issuer": "http://127.0.0.1:PORT"}, once it listens. It ends when stdin ends.
// With "tls": {"cert": PEM, "key": PEM, "ca": PEM} it speaks https, and asks for clients' certificates on a second port
// (mtls_endpoint_aliases); `ca` is who signed those that need not be known themselves.
// Each resource server gets JWTs (RFC 9068) with the client's `owner` and `agent_type` as claims.
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
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
const listen = async (server) => {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server.address().port;
};
const answer = (request, response) => handle(request, response);
let issuer;
let discovery = {};
if (asked.tls) {
  // Two ports, as RFC 8705 §5 has it: the first asks nobody for a certificate.
  issuer = `https://localhost:${await listen(createTlsServer(asked.tls, answer))}`;
  const demanding = { ...asked.tls, requestCert: true, rejectUnauthorized: false };
  const mtls = `https://localhost:${await listen(createTlsServer(demanding, answer))}`;
  discovery = { mtls_endpoint_aliases: {
    token_endpoint: `${mtls}/token`,
    introspection_endpoint: `${mtls}/token/introspection`,
    revocation_endpoint: `${mtls}/token/revocation`,
  } };
} else {
  issuer = `http://127.0.0.1:${await listen(createServer(answer))}`;
}
const shown = (ctx) => ctx.req.socket.getPeerX509Certificate?.();

const provider = new Provider(issuer, {
  clients: asked.clients.map((client) => ({
    grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
    id_token_signed_response_alg: 'ES256', ...client,
  })),
  jwks: { keys: [key] },
  scopes: [...new Set(Object.values(asked.resources).flatMap((scopes) => scopes.split(' ')))],
  extraClientMetadata: { properties: ['owner', 'agent_type', 'utf8_secret'] },
  clientAuthMethods: [
    'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'none',
    'tls_client_auth', 'self_signed_tls_client_auth',
  ],
  enabledJWA: { clientAuthSigningAlgValues: ['RS256', 'PS256', 'ES256', 'HS256', 'HS384', 'HS512'] },
  discovery,
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    dPoP: {
      enabled: true,
      nonceSecret: asked.dpop_nonce ? Buffer.alloc(32, 7) : undefined,
      requireNonce: () => asked.dpop_nonce === true,
    },
    introspection: { enabled: true },
    revocation: { enabled: true },
    mTLS: {
      enabled: true, certificateBoundAccessTokens: true, selfSignedTlsClientAuth: true, tlsClientAuth: true,
      getCertificate: (ctx) => shown(ctx)?.toString(),
      certificateAuthorized: (ctx) => ctx.req.socket.authorized,
      certificateSubjectMatches: (ctx, property, expected) => (
        property === 'tls_client_auth_san_dns' && shown(ctx).subjectAltName === `DNS:${expected}`
      ),
    },
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
