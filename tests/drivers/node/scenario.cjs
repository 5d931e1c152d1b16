// What the node scenarios have in common; ../scenario.py says what a scenario is.
'use strict'

const assert = require('node:assert/strict')

const where = process.env.MATRIX_WHERE
const LARGE_TEXT = 'Grüße, 世界 🐘 '.repeat(49_933) // 1 MiB in UTF-8
const LARGE_BYTES = Buffer.alloc(1 << 20, Buffer.from(Array.from({ length: 256 }, (_, i) => i)))

module.exports = {
  assert,
  where,
  isPooled: where === 'transaction',
  CLIENTS: 30,
  ROUNDS: 4,
  STATEMENTS: 120,
  REPEATS: 12,
  POOL_SIZE: 5,
  LARGE_TEXT,
  LARGE_BYTES,
  SHAPES: [
    'create table shapes (id int primary key, n int)',
    'insert into shapes select i, i * 10 from generate_series(1, 50) i',
  ],
  // Each change and row 7 after it.
  CHANGES: [
    ["alter table shapes add column added text default 'new'", { id: 7, n: 70, added: 'new' }],
    ['alter table shapes alter column n type float4 using n + 0.5', { id: 7, n: 70.5, added: 'new' }],
  ],

  times: (count) => Array.from({ length: count }, (_, i) => i),

  isRunning: (mark) =>
    "select exists (select from pg_stat_activity where state = 'active'" +
    ` and position('${mark}' in query) > 0 and pid <> pg_backend_pid()) as running`,

  // The error of `work` must have this SQLSTATE.
  fails: (sqlstate, work) =>
    assert.rejects(work, (error) => {
      assert.equal(error.code, sqlstate, error)
      return true
    }),

  // The result of `work`, which may fail once with a stale plan.
  settled: async (work) => {
    try {
      return await work()
    } catch (error) {
      assert.equal(error.code, '0A000', error)
      return await work()
    }
  },

  // Runs the cases in turn; the process ends with `ok` or with the first error.
  main: async (cases) => {
    try {
      for (const each of cases) {
        await each()
      }
      console.log('ok')
    } catch (error) {
      console.error(error)
      process.exit(1)
    }
  },
}
