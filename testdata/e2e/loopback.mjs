// Preloaded into servers that would listen on every address: they get 127.0.0.1 only.
import net from 'node:net';

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  if (typeof port === 'object' || typeof rest[0] === 'string') return listen.call(this, port, ...rest);
  return listen.call(this, Number(port), '127.0.0.1', ...rest.filter((a) => typeof a === 'function'));
};
