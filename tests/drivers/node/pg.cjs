// node-postgres: unnamed statements by default, named ones where the application names them.
'use strict'

const pg = require('pg')
const s = require('./scenario.cjs')
const { assert } = s

const row = { name: 'shape row', text: 'select * from shapes where id = $1', values: [7] }
const value = { name: 'shape value', text: 'select n from shapes where id = $1', values: [7] }

let client

async function connected(options, work) {
  const other = new pg.Client(options)
  await other.connect()
  try {
    return await work(other)
  } finally {
    await other.end()
  }
}

async function transactions() {
  await client.query('create table items (id int primary key, t text)')
  for (const i of s.times(s.REPEATS)) {
    await client.query('begin')
    await client.query('insert into items values ($1, $2)', [i, `item ${i}`])
    await client.query({ name: 'rename', text: 'update items set t = $1 where id = $2', values: [`new ${i}`, i] })
    await client.query('commit')
  }
  await client.query('begin')
  await client.query('delete from items where id >= $1', [0])
  await client.query('rollback')
  const { rows } = await client.query('select count(*)::int, min(t) from items')
  assert.deepEqual(rows, [{ count: s.REPEATS, min: 'new 0' }])
}

async function manyStatements() {
  for (const i of s.times(s.STATEMENTS)) {
    const { rows } = await client.query(`select $1::int + ${i} as n`, [i])
    assert.equal(rows[0].n, 2 * i)
  }
  for (let round = 0; round < 2; round += 1) {
    for (const i of s.times(s.STATEMENTS)) {
      const { rows } = await client.query({ name: `number ${i}`, text: `select $1::int * ${i} as n`, values: [2] })
      assert.equal(rows[0].n, 2 * i)
    }
  }
  // Sent in one go, without waiting for answers: pg queues them by itself.
  const found = await Promise.all(s.times(50).map((i) => client.query('select $1::int as n', [i])))
  assert.deepEqual(
    found.map(({ rows }) => rows[0].n),
    s.times(50),
  )
}

async function errors() {
  const insert = { name: 'insert', text: 'insert into items values ($1, $2)', values: [1, 'twice'] }
  for (const i of s.times(s.REPEATS)) {
    await s.fails('23505', () => client.query(insert))
    await s.fails('42P01', () => client.query({ name: 'broken', text: 'select * from no_such_table' }))
    await client.query('begin')
    await s.fails('22012', () => client.query('select 1 / $1::int', [0]))
    await s.fails('25P02', () => client.query(insert))
    await client.query('rollback')
    assert.equal((await client.query('select $1::int as n', [i])).rows[0].n, i)
  }
}

async function largeValues() {
  for (const name of [undefined, 'large']) {
    const text = 'select $1::text as t, $2::bytea as b'
    const { rows } = await client.query({ name, text, values: [s.LARGE_TEXT, s.LARGE_BYTES] })
    assert.equal(rows[0].t, s.LARGE_TEXT)
    assert.ok(rows[0].b.equals(s.LARGE_BYTES))
  }
}

async function timeouts() {
  await client.query("set statement_timeout = '80ms'")
  await s.fails('57014', () => client.query('select pg_sleep($1)', [15]))
  await s.fails('57014', () => client.query('select pg_sleep($1)', [15]))
  await client.query('reset statement_timeout')
  assert.equal((await client.query('show statement_timeout')).rows[0].statement_timeout, '0')
  for (const options of [{ options: '-c statement_timeout=80' }, { statement_timeout: 80 }]) {
    await connected(options, async (other) => {
      await s.fails('57014', () => other.query('select pg_sleep(15)'))
      assert.equal((await other.query('show statement_timeout')).rows[0].statement_timeout, '80ms')
    })
  }
}

// pg does not try again: PostgreSQL itself fails until the client has another name, a pool fails at most once.
async function ddl() {
  for (const statement of s.SHAPES) await client.query(statement)
  await connected({}, async (reader) => {
    let generation = 0
    const named = (query) => ({ ...query, name: `${query.name} ${generation}` })
    const read = async (query) => (await reader.query(named(query))).rows[0]
    for (const _ of s.times(s.REPEATS)) {
      assert.deepEqual(await read(row), { id: 7, n: 70 })
      assert.deepEqual(await read(value), { n: 70 })
    }
    for (const [change, expected] of s.CHANGES) {
      await client.query(change)
      if (s.isPooled) {
        assert.deepEqual(await s.settled(() => read(row)), expected)
        assert.deepEqual(await s.settled(() => read(value)), { n: expected.n })
      } else {
        await s.fails('0A000', () => read(row))
        generation += 1
      }
      for (const _ of s.times(s.REPEATS)) {
        assert.deepEqual(await read(row), expected)
        assert.deepEqual(await read(value), { n: expected.n })
      }
    }
  })
}

async function notifications() {
  await connected({}, async (listener) => {
    const heard = new Promise((resolve) => {
      const payloads = []
      listener.on('notification', ({ channel, payload }) => {
        payloads.push(`${channel} ${payload}`)
        if (payloads.length === 3) resolve(payloads)
      })
    })
    await listener.query('listen news')
    await client.query('select pg_notify($1, $2)', ['news', 'first'])
    await client.query("notify elsewhere, 'unheard'")
    await client.query("begin; notify news, 'second'; commit")
    await listener.query("notify news, 'own'")
    assert.deepEqual(await heard, ['news first', 'news second', 'news own'])
    await listener.query('unlisten news')
  })
}

// pg's pool has 10 clients; in session mode the pooler has 5 servers.
async function manyClients() {
  await client.query('create table work (client int, n int)')
  await client.end() // in session mode it would keep a server
  const pool = new pg.Pool(s.where === 'session' ? { max: s.POOL_SIZE } : {})
  await Promise.all(
    s.times(s.CLIENTS).map(async (index) => {
      for (const i of s.times(s.ROUNDS)) {
        const one = await pool.connect()
        try {
          await one.query('begin')
          await one.query('insert into work values ($1, $2)', [index, i])
          const { rows } = await one.query('select count(*)::int from work where client = $1', [index])
          assert.equal(rows[0].count, i + 1)
          await one.query('commit')
          const mine = { name: `client ${index}`, text: `select $1::int as n, '${index}' as client`, values: [i] }
          assert.deepEqual((await one.query(mine)).rows, [{ n: i, client: `${index}` }])
        } finally {
          one.release()
        }
      }
    }),
  )
  await pool.end()
}

s.main([
  async () => {
    client = new pg.Client()
    await client.connect()
  },
  transactions,
  manyStatements,
  errors,
  largeValues,
  timeouts,
  ddl,
  notifications,
  manyClients,
])
