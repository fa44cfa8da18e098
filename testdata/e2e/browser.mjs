// A stand-in for the browser: a folder to be put first on PATH, in which the name that opens addresses on this
// system is a program that follows the address to its end, as somebody does who agrees to everything.
//
//	node browser.mjs ADDRESS
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const self = fileURLToPath(import.meta.url);

export function standInBrowser(folder) {
  const bin = path.join(folder, 'bin');
  fs.mkdirSync(bin);
  const quoted = (s) => `'${s.replaceAll("'", String.raw`'\''`)}'`;
  for (const name of ['xdg-open', 'open']) {
    fs.writeFileSync(path.join(bin, name), `#!/bin/sh\nexec ${quoted(process.execPath)} ${quoted(self)} "$@"\n`, { mode: 0o700 });
  }
  return bin;
}

// browse follows redirects with cookies, and sends each form that a page shows, with its hidden fields and what
// a person would enter: answers by the names of fields.
export async function browse(address, answers = {}) {
  const jar = new Map();
  let method = 'GET', body;
  for (let url = new URL(address), hop = 0; hop < 20; hop++) {
    const answer = await fetch(url, {
      method, body, redirect: 'manual',
      headers: { cookie: [...jar].map(([k, v]) => `${k}=${v}`).join('; '), accept: 'text/html' },
    });
    for (const c of answer.headers.getSetCookie()) {
      const [pair] = c.split(';');
      jar.set(pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1));
    }
    method = 'GET';
    body = undefined;
    const to = answer.headers.get('location');
    if (to) {
      await answer.body?.cancel();
      url = new URL(to, url);
      continue;
    }
    const page = await answer.text();
    const form = /<form[^>]*action="([^"]*)"[^>]*>([\s\S]*?)<\/form>/i.exec(page);
    if (!form) return { status: answer.status, url: url.origin, page };
    url = new URL(form[1].replaceAll('&amp;', '&'), url);
    method = 'POST';
    body = new URLSearchParams();
    for (const [input] of form[2].matchAll(/<input[^>]*>/gi)) {
      const name = /name="([^"]*)"/i.exec(input)?.[1];
      if (name) body.set(name, answers[name] ?? (/value="([^"]*)"/i.exec(input)?.[1] || 'somebody'));
    }
  }
  throw new Error('redirected for ever');
}

if (process.argv[1] === self) {
  const { status } = await browse(process.argv[2]);
  process.exitCode = status === 200 ? 0 : 1;
}
