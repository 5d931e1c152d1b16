"""Django's ORM on psycopg 3 with its defaults: server-side cursors for iterators, autocommit outside `atomic`."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from django.db import DatabaseError, IntegrityError, OperationalError, connections, models, transaction

from drivers.scenario import (
    ADD_COLUMN,
    BEFORE,
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
)
from drivers.target import Target

ALIAS = "default"

if not settings.configured:
    settings.configure(DATABASES={}, USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
    django.setup()


class Author(models.Model):  # type: ignore[misc]
    """Somebody with books."""

    name = models.TextField(unique=True)
    born = models.DateField(null=True)

    class Meta:
        app_label = "matrix"


class Book(models.Model):  # type: ignore[misc]
    """One text and its picture."""

    title = models.TextField()
    picture = models.BinaryField(null=True)
    tags = models.JSONField(default=list)
    author = models.ForeignKey(Author, on_delete=models.CASCADE, related_name="books")

    class Meta:
        app_label = "matrix"


class Work(models.Model):  # type: ignore[misc]
    """What the many clients insert."""

    client = models.IntegerField()
    n = models.IntegerField()

    class Meta:
        app_label = "matrix"


async def test_django(target: Target) -> None:
    await asyncio.to_thread(run, target)
    await target.check_rest()


def run(target: Target) -> None:
    with database(target):
        tables()
        crud()
        many_statements()
        failures()
        large_values()
        timeouts(target)
        ddl()
        many_clients()


@contextlib.contextmanager
def database(target: Target, **options: Any) -> Iterator[None]:
    """Points Django's default database at the target; each thread has a connection of its own."""
    address = target.address
    connections.settings = connections.configure_settings(
        {
            ALIAS: {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": address.database,
                "USER": address.user,
                "PASSWORD": address.password,
                "HOST": address.host,
                "PORT": str(address.port),
                "OPTIONS": {"sslmode": "disable", **options},
            }
        }
    )
    try:
        yield
    finally:
        forget_connection()


def forget_connection() -> None:
    """This thread's connection goes, and with it what it knew of the database."""
    with contextlib.suppress(AttributeError):
        connections[ALIAS].close()
        del connections[ALIAS]


def tables() -> None:
    """As a migration makes them: DDL in one transaction."""
    with connections[ALIAS].schema_editor() as editor:
        for model in (Author, Book, Work):
            editor.create_model(model)


def crud() -> None:
    with transaction.atomic():
        authors = Author.objects.bulk_create(Author(name=f"author {i}") for i in range(30))
        Book.objects.bulk_create(Book(title=f"book {i}", author=authors[i % 30], tags=[i]) for i in range(3000))
    for i in range(REPEATS):
        author = Author.objects.get(name=f"author {i}")
        assert author.books.count() == 100
        author.born = f"2000-01-{i + 1:02}"
        author.save()
        assert Author.objects.filter(born__day=i + 1).get() == author
        assert Book.objects.filter(tags__contains=[i]).get().title == f"book {i}"
    loaded = Author.objects.prefetch_related("books").order_by("id")
    assert [len(author.books.all()) for author in loaded] == [100] * 30
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Book.objects.all().delete()
        raise ZeroDivisionError
    # A server-side cursor: WITH HOLD outside a transaction, plain inside.
    assert len({book.title for book in Book.objects.iterator(chunk_size=500)}) == 3000
    with transaction.atomic():
        assert len({book.title for book in Book.objects.select_for_update().iterator(chunk_size=500)}) == 3000


def many_statements() -> None:
    with connections[ALIAS].cursor() as cursor:
        for i in range(STATEMENTS):
            cursor.execute(f"select %s::int + {i}", [i])
            assert cursor.fetchone() == (2 * i,)


def failures() -> None:
    for i in range(REPEATS):
        with pytest.raises(IntegrityError):
            Author.objects.create(name="author 1")
        with transaction.atomic():
            Author.objects.create(name=f"nested {i}")
            with pytest.raises(IntegrityError), transaction.atomic():  # a savepoint
                Author.objects.create(name=f"nested {i}")
            assert not Author.objects.get_or_create(name=f"nested {i}")[1]
        assert Author.objects.filter(name__startswith="nested").count() == i + 1


def large_values() -> None:
    author = Author.objects.get(name="author 1")
    made = Book.objects.create(title=LARGE_TEXT, picture=LARGE_BYTES, author=author)
    found = Book.objects.get(id=made.id)
    assert (found.title, bytes(found.picture)) == (LARGE_TEXT, LARGE_BYTES)


def timeouts(target: Target) -> None:
    with transaction.atomic(), connections[ALIAS].cursor() as cursor:
        cursor.execute("set local statement_timeout = '80ms'")
        with pytest.raises(OperationalError, match="statement timeout"), transaction.atomic():
            cursor.execute("select pg_sleep(15)")
    forget_connection()
    with database(target, options="-c statement_timeout=80"), connections[ALIAS].cursor() as cursor:
        with pytest.raises(OperationalError, match="statement timeout"):
            cursor.execute("select pg_sleep(15)")
        cursor.execute("show statement_timeout")
        assert cursor.fetchone() == ("80ms",)


def ddl() -> None:
    """Django binds on the client, so there is no cached plan; its models name their columns."""
    with connections[ALIAS].cursor() as cursor:
        for statement in SHAPES:
            cursor.execute(statement)
        for change, expected in (("select 1", BEFORE), (ADD_COLUMN, WITH_COLUMN), (INT_TO_FLOAT, WITH_FLOAT)):
            cursor.execute(change)
            for _ in range(REPEATS):
                cursor.execute("select * from shapes where id = %s", [7])
                assert cursor.fetchone() == expected
        with pytest.raises(DatabaseError):
            cursor.execute("alter table no_such_table add column n int")


def many_clients() -> None:
    def work(index: int) -> None:
        try:
            for i in range(ROUNDS):
                with transaction.atomic():
                    Work.objects.create(client=index, n=i)
                    assert Work.objects.filter(client=index).count() == i + 1
        finally:
            forget_connection()

    forget_connection()  # in session mode it would keep a server
    in_threads(work)
    assert Work.objects.count() == CLIENTS * ROUNDS
