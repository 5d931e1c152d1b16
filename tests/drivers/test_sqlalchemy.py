"""SQLAlchemy 2 on psycopg and on asyncpg: engines and sessions with their defaults."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import (
    URL,
    Engine,
    ForeignKey,
    bindparam,
    create_engine,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, NotSupportedError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

from drivers.scenario import (
    ADD_COLUMN,
    BEFORE,
    CANCELLED,
    CLIENTS,
    INT_TO_FLOAT,
    LARGE_BYTES,
    LARGE_TEXT,
    REPEATS,
    ROUNDS,
    SHAPES,
    STATEMENTS,
    WITH_COLUMN,
    WITH_FLOAT,
    in_threads,
    settled,
    settled_async,
)
from drivers.target import POOL_SIZE, Target

ROW = text("select * from shapes where id = :id")
VALUE = text("select n from shapes where id = :id")


class Model(DeclarativeBase):
    """The tables of this scenario."""


class Author(Model):
    """Somebody with books."""

    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author", order_by="Book.title")


class Book(Model):
    """One text and its picture."""

    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    picture: Mapped[bytes | None]
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")


class Work(Model):
    """What the many clients insert."""

    __tablename__ = "work"
    id: Mapped[int] = mapped_column(primary_key=True)
    client: Mapped[int]
    n: Mapped[int]


async def test_sqlalchemy_on_psycopg(target: Target) -> None:
    await asyncio.to_thread(run, target)
    await target.check_rest()


async def test_sqlalchemy_on_asyncpg(target: Target) -> None:
    engine = create_async_engine(url(target, "postgresql+asyncpg"), **engine_options(target))
    try:
        await crud_async(engine)
        await errors_async(engine)
        await large_values_async(engine)
        await timeouts_async(engine)
        await ddl_async(engine)
        await many_clients_async(engine)
    finally:
        await engine.dispose()
    await target.check_rest()


def engine_options(target: Target) -> dict[str, Any]:
    """The engine's own pool has 5 + 10 connections; session mode has a server for 5."""
    return {"pool_size": POOL_SIZE, "max_overflow": 0} if target.where == "session" else {}


def url(target: Target, driver: str) -> URL:
    address = target.address
    return URL.create(driver, address.user, address.password, address.host, address.port, address.database)


def sqlstate(error: Exception) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", ""))


def is_stale(error: Exception) -> bool:
    """The dialect of asyncpg raises an error of its own, without the SQLSTATE."""
    return isinstance(error, NotSupportedError) and "cached" in str(error)


def books(author: int) -> list[dict[str, Any]]:
    return [{"title": f"book {i}", "author_id": author} for i in range(100)]


# --- on psycopg


def run(target: Target) -> None:
    engine = create_engine(url(target, "postgresql+psycopg"), **engine_options(target))
    try:
        crud(engine)
        errors(engine)
        large_values(engine)
        timeouts(engine)
        ddl(engine)
        many_clients(engine)
    finally:
        engine.dispose()


def crud(engine: Engine) -> None:
    Model.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(Author(name=f"author {i}", books=[Book(title=f"first of {i}")]) for i in range(30))
    with Session(engine) as session:
        for i in range(REPEATS):
            author = session.scalars(select(Author).where(Author.name == f"author {i}")).one()
            assert [book.title for book in author.books] == [f"first of {i}"]
            author.books.append(Book(title=f"second of {i}"))
            session.commit()
        loaded = session.scalars(select(Author).options(selectinload(Author.books)).order_by(Author.id)).all()
        assert [len(author.books) for author in loaded] == [2] * REPEATS + [1] * (30 - REPEATS)
        session.execute(delete(Book))
        session.rollback()
        assert session.scalar(select(func.count()).select_from(Book)) == 30 + REPEATS
    with engine.begin() as connection:
        connection.execute(insert(Book), books(1))
        connection.execute(
            update(Book).where(Book.title == bindparam("old")),
            [{"old": f"book {i}", "author_id": 2} for i in range(10)],
        )
    with engine.connect() as connection:
        for i in range(STATEMENTS):
            assert connection.execute(select(func.abs(-i).label(f"column_{i}"))).scalar() == i
        found = connection.execution_options(yield_per=50).execute(select(Book.id))  # a named cursor
        assert len(found.scalars().all()) == 130 + REPEATS


def errors(engine: Engine) -> None:
    with Session(engine) as session:
        for i in range(REPEATS):
            session.add(Author(name="author 1"))
            with pytest.raises(IntegrityError):
                session.commit()
            session.rollback()
            with session.begin_nested():
                session.add(Author(name=f"nested {i}"))
            with pytest.raises(IntegrityError), session.begin_nested():  # a savepoint
                session.add(Author(name=f"nested {i}"))
                session.flush()
            session.commit()
        assert session.scalar(select(func.count()).where(Author.name.like("nested %"))) == REPEATS


def large_values(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Book(title=LARGE_TEXT, picture=LARGE_BYTES, author_id=1))
    with Session(engine) as session:
        book = session.scalars(select(Book).where(Book.picture.is_not(None))).one()
        assert (book.title, book.picture) == (LARGE_TEXT, LARGE_BYTES)


def timeouts(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("set local statement_timeout = '80ms'"))
        with pytest.raises(DBAPIError) as caught:
            connection.execute(text("select pg_sleep(15)"))
        assert sqlstate(caught.value) == CANCELLED
        connection.rollback()
        assert connection.scalar(text("show statement_timeout")) == "0"


def ddl(engine: Engine) -> None:
    """The reader keeps its connection; another one changes the table."""

    def read(connection: Any, statement: Any) -> tuple[Any, ...]:
        with connection.begin():
            return tuple(connection.execute(statement, {"id": 7}).one())

    with engine.connect() as reader:
        with engine.begin() as owner:
            for statement in SHAPES:
                owner.execute(text(statement))
        for change, row in (("select 1", BEFORE), (ADD_COLUMN, WITH_COLUMN), (INT_TO_FLOAT, WITH_FLOAT)):
            with engine.begin() as owner:
                owner.execute(text(change))
            assert settled(lambda: read(reader, ROW), is_stale) == row
            assert settled(lambda: read(reader, VALUE), is_stale) == row[1:2]
            for _ in range(REPEATS):
                assert read(reader, ROW) == row
                assert read(reader, VALUE) == row[1:2]


def many_clients(engine: Engine) -> None:

    def work(index: int) -> None:
        for i in range(ROUNDS):
            with Session(engine) as session, session.begin():
                session.add(Work(client=index, n=i))
                session.flush()
                assert session.scalar(select(func.count()).where(Work.client == index)) == i + 1

    in_threads(work)


# --- on asyncpg


async def crud_async(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Model.metadata.create_all)
    async with AsyncSession(engine) as session, session.begin():
        session.add_all(Author(name=f"author {i}", books=[Book(title=f"first of {i}")]) for i in range(30))
    async with AsyncSession(engine) as session:
        by_name = select(Author).options(selectinload(Author.books))
        for i in range(REPEATS):
            author = (await session.scalars(by_name.where(Author.name == f"author {i}"))).one()
            assert [book.title for book in author.books] == [f"first of {i}"]
            author.books.append(Book(title=f"second of {i}"))
            await session.commit()
        await session.execute(delete(Book))
        await session.rollback()
        assert await session.scalar(select(func.count()).select_from(Book)) == 30 + REPEATS
    async with engine.begin() as connection:
        await connection.execute(insert(Book), books(1))
    async with engine.connect() as connection:
        for i in range(STATEMENTS):
            assert (await connection.execute(select(func.abs(-i).label(f"column_{i}")))).scalar() == i
        async with connection.stream(select(Book.id)) as stream:
            assert len(await stream.scalars().all()) == 130 + REPEATS


async def errors_async(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        for i in range(REPEATS):
            session.add(Author(name="author 1"))
            with pytest.raises(IntegrityError):
                await session.commit()
            await session.rollback()
            async with session.begin_nested():
                session.add(Author(name=f"nested {i}"))
            with pytest.raises(IntegrityError):  # a savepoint
                async with session.begin_nested():
                    session.add(Author(name=f"nested {i}"))
                    await session.flush()
            await session.commit()
        assert await session.scalar(select(func.count()).where(Author.name.like("nested %"))) == REPEATS


async def large_values_async(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add(Book(title=LARGE_TEXT, picture=LARGE_BYTES, author_id=1))
    async with AsyncSession(engine) as session:
        book = (await session.scalars(select(Book).where(Book.picture.is_not(None)))).one()
        assert (book.title, book.picture) == (LARGE_TEXT, LARGE_BYTES)


async def timeouts_async(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("set local statement_timeout = '80ms'"))
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text("select pg_sleep(15)"))
        assert sqlstate(caught.value) == CANCELLED
        await connection.rollback()
        assert await connection.scalar(text("show statement_timeout")) == "0"


async def ddl_async(engine: AsyncEngine) -> None:
    """The dialect forgets its statements at the first stale one; the application sees that error, for it begins."""

    async def read(connection: Any, statement: Any) -> tuple[Any, ...]:
        async with connection.begin():
            return tuple((await connection.execute(statement, {"id": 7})).one())

    async with engine.connect() as reader:
        async with engine.begin() as owner:
            for statement in SHAPES:
                await owner.execute(text(statement))
        for change, row in (("select 1", BEFORE), (ADD_COLUMN, WITH_COLUMN), (INT_TO_FLOAT, WITH_FLOAT)):
            async with engine.begin() as owner:
                await owner.execute(text(change))
            assert await settled_async(lambda: read(reader, ROW), is_stale) == row
            assert await settled_async(lambda: read(reader, VALUE), is_stale) == row[1:2]
            for _ in range(REPEATS):
                assert await read(reader, ROW) == row
                assert await read(reader, VALUE) == row[1:2]


async def many_clients_async(engine: AsyncEngine) -> None:
    async def work(index: int) -> None:
        for i in range(ROUNDS):
            async with AsyncSession(engine) as session, session.begin():
                session.add(Work(client=index, n=i))
                await session.flush()
                assert await session.scalar(select(func.count()).where(Work.client == index)) == i + 1

    await asyncio.gather(*(work(index) for index in range(CLIENTS)))
