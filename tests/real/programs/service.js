// SPDX-License-Identifier: Apache-2.0
// An HTTP server that counts its visitors, timers, a worker thread and a child. Argument: its port.
const http = require('http');
const {spawn} = require('child_process');
const {Worker} = require('worker_threads');

let visitors = 0;
let ticks = 0;
let rang = 0;
const late = [];
const started = Date.now();
setInterval(() => { ticks += 1; }, 20);
for (let i = 0; i < 5; ++i) setTimeout(() => { rang += 1; late.push(Date.now() - started - 1000 * i); }, 1000 * i);

const child = spawn('cat');
let echoed = '';
child.stdout.on('data', (data) => { echoed += data; });
const worker = new Worker(`
  const {parentPort} = require('worker_threads');
  parentPort.on('message', (n) => { let sum = 0; for (let i = 0; i < n; ++i) sum = (sum * 31 + i) % 1000003; parentPort.postMessage(sum); });
`, {eval: true});

http.createServer((request, response) => {
  visitors += 1;
  const visitor = `${visitors};`;
  child.stdin.write(visitor);
  worker.once('message', (sum) => {
    const answer = () => {
      if (!echoed.endsWith(visitor)) return setTimeout(answer, 5);
      response.setHeader('Connection', 'close');
      response.end(JSON.stringify({visitors, ticks, rang, early: late.some((ms) => ms < -5), sum, echoed}));
      if (request.url !== '/end') return;
      child.on('exit', () => process.exit(visitors));
      child.stdin.end();
    };
    answer();
  });
  worker.postMessage(20000);
}).listen(Number(process.argv[2]), '127.0.0.1');
