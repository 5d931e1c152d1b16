// knex on pg: its builder, migrations' DDL and transactions, over its pool with the default size.
'use strict'

const knex = require('knex')
const s = require('./scenario.cjs')
const { assert } = s

// knex reads no environment, and its pool has 2 to 10 connections; in session mode the pooler has 5 servers.
const connection = {
  host: process.env.PGHOST,
  port: Number(process.env.PGPORT),
  database: process.env.PGDATABASE,
  user: process.env.PGUSER,
  password: process.env.PGPASSWORD,
}
const sizes = s.where === 'session' ? { pool: { min: 2, max: s.POOL_SIZE } } : {}
const db = knex({ client: 'pg', connection, ...sizes })

async function transactions() {
  await db.schema.createTable('items', (table) => {
    table.increments('id')
    table.text('t').unique()
    table.binary('b')
    table.jsonb('j')
  })
  await db.batchInsert(
    'items',
    s.times(300).map((i) => ({ t: `item ${i}`, j: { i } })),
    50,
  )
  for (const i of s.times(s.REPEATS)) {
    await db.transaction(async (trx) => {
      await trx('items')
        .where({ t: `item ${i}` })
        .update({ t: `new ${i}` })
      assert.deepEqual((await trx('items').where({ t: `new ${i}` }).first()).j, { i })
    })
  }
  await assert.rejects(
    db.transaction(async (trx) => {
      await trx('items').delete()
      throw new RangeError('back')
    }),
    RangeError,
  )
  assert.equal((await db('items').count())[0].count, '300')
}

async function manyStatements() {
  for (const i of s.times(s.STATEMENTS)) {
    const { rows } = await db.raw(`select ?::int + ${i} as n`, [i])
    assert.equal(rows[0].n, 2 * i)
  }
}

async function errors() {
  for (const i of s.times(s.REPEATS)) {
    await s.fails('23505', () => db('items').insert({ t: 'new 1' }))
    await s.fails('22012', () => db.transaction((trx) => trx.raw('select 1 / ?::int', [0])))
    await db.transaction(async (trx) => {
      await s.fails('23505', () => trx.transaction((nested) => nested('items').insert({ t: 'new 1' }))) // a savepoint
      await trx('items').insert({ t: `kept ${i}` })
    })
  }
  assert.equal((await db('items').where('t', 'like', 'kept %').count())[0].count, String(s.REPEATS))
}

async function largeValues() {
  const [{ id }] = await db('items').insert({ t: 'large', b: s.LARGE_BYTES }).returning('id')
  assert.ok((await db('items').where({ id }).first()).b.equals(s.LARGE_BYTES))
  const { rows } = await db.raw('select ?::text as t', [s.LARGE_TEXT])
  assert.equal(rows[0].t, s.LARGE_TEXT)
}

async function timeouts() {
  await db.transaction(async (trx) => {
    await trx.raw("set local statement_timeout = '80ms'")
    await s.fails('57014', () => trx.transaction((nested) => nested.raw('select pg_sleep(?)', [15])))
  })
  // knex cancels by pg_cancel_backend and the pid of its login, which a pooler makes up.
  if (s.where === 'direct') {
    const waiting = db.raw('select pg_sleep(?)', [15]).timeout(200, { cancel: true })
    await assert.rejects(waiting, knex.KnexTimeoutError)
  }
}

async function ddl() {
  for (const statement of s.SHAPES) await db.raw(statement)
  assert.deepEqual(await db('shapes').where({ id: 7 }).first(), { id: 7, n: 70 })
  for (const [change, expected] of s.CHANGES) {
    await db.raw(change)
    for (const _ of s.times(s.REPEATS)) {
      assert.deepEqual(await db('shapes').where({ id: 7 }).first(), expected)
    }
  }
}

async function manyClients() {
  await db.schema.createTable('work', (table) => {
    table.integer('client')
    table.integer('n')
  })
  await Promise.all(
    s.times(s.CLIENTS).map(async (client) => {
      for (const n of s.times(s.ROUNDS)) {
        await db.transaction(async (trx) => {
          await trx('work').insert({ client, n })
          assert.equal((await trx('work').where({ client }).count())[0].count, String(n + 1))
        })
      }
    }),
  )
  await db.destroy()
}

s.main([transactions, manyStatements, errors, largeValues, timeouts, ddl, manyClients])
