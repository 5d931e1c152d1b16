"""How often the clients of the mix-up check do what.

Mostly short work, so that servers change hands often; large rows, deaths, and what waits or keeps a server are costly.
"""

from collections.abc import Awaitable, Callable

from harness import mixup_operations as plain
from harness import mixup_sessions as session
from harness.mixup_client import TaggedClient

Operation = Callable[[TaggedClient], Awaitable[None]]

OPERATIONS: dict[Operation, float] = {
    plain.simple: 20,
    plain.extended: 20,
    plain.several_statements: 5,
    plain.several_statements_and_an_error: 3,
    plain.empty: 2,
    plain.division_by_zero: 2,
    plain.syntax_error: 2,
    plain.notice: 2,
    plain.large_row: 0.5,
    plain.extended_empty: 1,
    plain.extended_syntax_error: 2,
    plain.pipelined: 8,
    plain.simple_and_extended_in_one_write: 5,
    plain.flush_and_pause: 4,
    plain.flush_twice_and_pause: 2,
    plain.flush_an_error_and_pause: 2,
    plain.fake_ready: 4,
    plain.fake_ready_as_text: 2,
    plain.transaction: 6,
    plain.extended_transaction: 3,
    plain.aborted_transaction: 3,
    plain.row_lock: 3,
    plain.advisory_lock: 2,
    plain.copy_in: 1.5,
    plain.extended_copy_in: 1,
    plain.copy_in_bad_data: 1,
    plain.copy_fail: 1,
    plain.copy_out: 1,
    plain.copy_out_binary: 1,
    plain.dies_inside_a_message: 0.15,
    plain.dies_in_a_transaction: 0.2,
    plain.dies_in_copy_in: 0.15,
    plain.dies_in_copy_out: 0.15,
    plain.dies_waiting: 0.15,
    plain.dies_after_flush: 0.15,
    plain.dies_in_a_pipeline: 0.15,
    session.prepare_and_run: 10,
    session.run_prepared: 12,
    session.pipeline_prepared: 4,
    session.same_text_under_two_names: 2,
    session.close_and_prepare_again: 2,
    session.prepare_by_sql: 1.5,
    session.change_settings: 2,
    session.look_at_settings: 4,
    session.notify: 1,
    session.cancel_own_sleep: 0.4,
    session.cancel_late: 0.3,
    session.change_table_under_statement: 0.3,
    session.session_lock: 0.5,
    session.temporary_table: 0.3,
    session.holdable_cursor: 0.3,
}
