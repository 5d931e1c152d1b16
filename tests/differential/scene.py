"""The database that scripts find: made anew for each run, so that nothing of the one before shows in the other."""

from harness.databases import Database

_ONCE = """
create role {role};
grant {role} to {user};
grant create on schema public to {role};
-- A warning comes when a text is prepared: on a shared server perhaps for somebody else.
alter role {user} set escape_string_warning = off;
"""
_ANEW = """
set client_min_messages = error;
drop owned by {role};
drop schema public cascade;
{drops}
create schema public authorization {user};
grant all on schema public to {role};
set role {user};
create procedure move_on(v text) language plpgsql as
  $$ begin perform set_config('application_name', 'moved ' || v, false); end $$;
create function name_application(v text) returns text language sql as
  $$ select set_config('application_name', v, false) $$;
"""
_OF_CLIENT = """
create table t_{n} (a int primary key, b text);
insert into t_{n} values (1, 'one'), (2, 'two');
create table late_{n} (a int unique deferrable initially deferred);
create schema other_{n};
create table other_{n}.t_{n} (b text);
create table other_{n}.namesake ({namesake});
grant usage on schema other_{n} to {role};
grant select on other_{n}.t_{n} to {role};
"""
# Tables of one name, each seen by one client that sets its search_path.
_NAMESAKES = ("a int, b text", "a text", "a float8, c int")


def role_of(database: Database) -> str:
    """The role that the user may set."""
    return f"{database.user}_r"


def prepare_roles(database: Database, *, is_superuser: bool = False) -> None:
    """Once for each database."""
    database.sql(_ONCE.format(user=database.user, role=role_of(database)))
    if is_superuser:
        database.sql(f"alter role {database.user} superuser")


def prepare(database: Database, clients: int) -> None:
    """Before each run."""
    words = {"user": database.user, "role": role_of(database)}
    drops = "".join(f"drop schema if exists other_{n} cascade;\n" for n in range(clients))
    tables = [_OF_CLIENT.format(n=n, namesake=_NAMESAKES[n % len(_NAMESAKES)], **words) for n in range(clients)]
    database.sql(_ANEW.format(drops=drops, **words) + "".join(tables))
