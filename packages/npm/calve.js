#!/usr/bin/env node
// Runs the calve command of the package for this platform, which npm chose by its `os` and `cpu`.
'use strict';
const { spawn } = require('node:child_process');

const name = `@calve-rs/${process.platform}-${process.arch}`;
let command;
try {
  command = require.resolve(`${name}/bin/calve${process.platform === 'win32' ? '.exe' : ''}`);
} catch {
  console.error(`calve: the package ${name} is not installed.
If npm left out optional packages, install again without --omit=optional.
If there is none for this platform: cargo install --locked calve-cli`);
  process.exit(1);
}

const child = spawn(command, process.argv.slice(2), { stdio: 'inherit' });
// The terminal sends Ctrl-C to both. calve takes back what it began, so it is waited for.
for (const signal of ['SIGINT', 'SIGHUP']) process.on(signal, () => {});
process.on('SIGTERM', () => child.kill('SIGTERM'));
child.on('error', (error) => {
  console.error(`calve: run ${command}: ${error.message}`);
  process.exit(1);
});
child.on('exit', (code, signal) => {
  if (signal === null) process.exit(code);
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
});
