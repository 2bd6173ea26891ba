// Asks the Workload API at SPIFFE_ENDPOINT_SOCKET for everything, as a Node program would: with @grpc/grpc-js, the standard
// proto (first argument), and OpenSSL to judge what it is given. Prints one line a fact; the first failure ends it.
'use strict';
const assert = require('node:assert');
const crypto = require('node:crypto');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const tls = require('node:tls');
const { execFileSync } = require('node:child_process');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const definition = loader.loadSync(process.argv[2], { keepCase: true, includeDirs: [path.dirname(process.argv[2])] });
const { SpiffeWorkloadAPI } = grpc.loadPackageDefinition(definition);
const client = new SpiffeWorkloadAPI(process.env.SPIFFE_ENDPOINT_SOCKET, grpc.credentials.createInsecure());

function header() {
  const metadata = new grpc.Metadata();
  metadata.set('workload.spiffe.io', 'true');
  return metadata;
}

// Certificates come one behind the other: each begins with a sequence and its length in two bytes.
function split(der) {
  const certificates = [];
  for (let at = 0; at < der.length;) {
    assert.strictEqual(der.readUInt16BE(at), 0x3082, 'a certificate begins with a sequence');
    const end = at + 4 + der.readUInt16BE(at + 2);
    certificates.push(new crypto.X509Certificate(der.subarray(at, end)));
    at = end;
  }
  return certificates;
}

const pem = (certificates) => certificates.map((c) => c.toString()).join('');
const call = (method, request) => new Promise((resolve, reject) => {
  client[method](request, header(), (err, answer) => (err ? reject(err) : resolve(answer)));
});
const first = (stream) => new Promise((resolve, reject) => {
  stream.once('data', resolve);
  stream.once('error', reject);
});

// openssl verifies the chain as the command line tool does it for anybody.
function verify(chain, roots) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'svid-'));
  const file = (name, certificates) => {
    fs.writeFileSync(path.join(dir, name), pem(certificates));
    return path.join(dir, name);
  };
  const args = ['verify', '-x509_strict', '-purpose', 'sslserver', '-CAfile', file('roots.pem', roots)];
  if (chain.length > 1) args.push('-untrusted', file('chain.pem', chain.slice(1)));
  try {
    return execFileSync('openssl', [...args, file('leaf.pem', chain.slice(0, 1))], { encoding: 'utf8' }).trim();
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
}

// handshake is mutual TLS by Node, which is OpenSSL again, with the certificate at both ends.
function handshake(chain, key, roots, id) {
  const both = { cert: pem(chain), key, ca: pem(roots), minVersion: 'TLSv1.3' };
  return new Promise((resolve, reject) => {
    const server = tls.createServer({ ...both, requestCert: true, rejectUnauthorized: true }, (socket) => {
      assert.ok(socket.authorized, 'the client is authorized');
      socket.end(socket.getPeerCertificate().subjectaltname);
    });
    server.listen(0, '127.0.0.1', () => {
      const socket = tls.connect({
        ...both, port: server.address().port, host: '127.0.0.1',
        checkServerIdentity: (_, cert) => (cert.subjectaltname.includes(`URI:${id}`) ? undefined : new Error(cert.subjectaltname)),
      });
      let seen = '';
      socket.on('data', (data) => { seen += data; });
      socket.on('error', reject);
      socket.on('end', () => { server.close(); resolve(seen); });
    });
  });
}

async function main() {
  await new Promise((resolve) => {
    client.FetchX509SVID({}, new grpc.Metadata()).on('data', () => {}).on('error', (err) => {
      assert.strictEqual(err.code, grpc.status.INVALID_ARGUMENT, err.message);
      resolve();
    });
  });
  console.log('without the header: InvalidArgument');

  const stream = client.FetchX509SVID({}, header());
  const { svids } = await first(stream);
  const [svid] = svids;
  const chain = split(svid.x509_svid);
  const roots = split(svid.bundle);
  const key = crypto.createPrivateKey({ key: svid.x509_svid_key, format: 'der', type: 'pkcs8' });
  assert.ok(chain[0].checkPrivateKey(key), 'the key is the one of the certificate');
  assert.ok(chain[0].subjectAltName.includes(`URI:${svid.spiffe_id}`), chain[0].subjectAltName);
  assert.match(verify(chain, roots), /: OK$/);
  console.log('openssl verify: OK');
  const exported = key.export({ type: 'pkcs8', format: 'pem' });
  assert.ok((await handshake(chain, exported, roots, svid.spiffe_id)).includes(`URI:${svid.spiffe_id}`));
  console.log('mutual TLS: OK');

  const rotated = first(stream);
  console.log('rotate');
  const next = split((await rotated).svids[0].x509_svid);
  assert.notStrictEqual(next[0].serialNumber, chain[0].serialNumber);
  assert.match(verify(next, roots), /: OK$/);
  console.log('rotation pushed: OK');

  const token = (await call('FetchJWTSVID', { audience: ['db'], spiffe_id: '' })).svids[0].svid;
  const { bundles } = await first(client.FetchJWTBundles({}, header()));
  const domain = svid.spiffe_id.split('/').slice(0, 3).join('/');
  const [head, body, signature] = token.split('.');
  const { kid } = JSON.parse(Buffer.from(head, 'base64url'));
  const jwk = JSON.parse(bundles[domain]).keys.find((k) => k.kid === kid);
  const trusted = { key: crypto.createPublicKey({ key: jwk, format: 'jwk' }), dsaEncoding: 'ieee-p1363' };
  assert.ok(crypto.verify('sha256', Buffer.from(`${head}.${body}`), trusted, Buffer.from(signature, 'base64url')));
  console.log('JWT-SVID: OK');
  assert.strictEqual((await call('ValidateJWTSVID', { audience: 'db', svid: token })).spiffe_id, svid.spiffe_id);
  await assert.rejects(call('ValidateJWTSVID', { audience: 'web', svid: token }), { code: grpc.status.INVALID_ARGUMENT });
  console.log('ValidateJWTSVID: OK');
  const all = await first(client.FetchX509Bundles({}, header()));
  assert.ok(Buffer.concat(split(all.bundles[domain]).map((c) => c.raw)).equals(svid.bundle));
  console.log('bundles: OK');
}

main().then(() => process.exit(0), (err) => {
  console.error(err);
  process.exit(1);
});
