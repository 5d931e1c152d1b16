import static java.nio.charset.StandardCharsets.UTF_8;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

/**
 * pgjdbc with its defaults: unnamed at first, named from the fifth execution on (prepareThreshold 5), then binary.
 *
 * <p>../scenario.py says what a scenario is. Outside a transaction pgjdbc prepares a stale statement anew by itself.
 */
public final class Matrix {
  private static final int CLIENTS = 30;
  private static final int ROUNDS = 4;
  private static final int STATEMENTS = 300; // more than its cache of 256 holds
  private static final int REPEATS = 12;
  private static final String LARGE_TEXT = "Grüße, 世界 🐘 ".repeat(49_933); // 1 MiB in UTF-8
  private static final byte[] LARGE_BYTES = new byte[1 << 20];
  private static final String WHERE = System.getenv("MATRIX_WHERE");
  private static final String URL =
      "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");

  static {
    for (int i = 0; i < LARGE_BYTES.length; i++) {
      LARGE_BYTES[i] = (byte) i;
    }
  }

  private interface Work {
    void run() throws Exception;
  }

  private Matrix() {}

  public static void main(String[] arguments) throws Exception {
    try (Connection connection = connect()) {
      transactions(connection);
      manyStatements(connection);
      batches(connection);
      errors(connection);
      copy(connection);
      cursors(connection);
      largeValues(connection);
      cancel(connection);
      timeouts(connection);
    }
    ddl();
    ddlInTransactions();
    notifications();
    manyClients();
    System.out.println("ok");
  }

  private static void transactions(Connection connection) throws SQLException {
    execute(connection, "create table items (id int primary key, t text)");
    connection.setAutoCommit(false);
    for (int i = 0; i < REPEATS; i++) {
      update(connection, "insert into items values (?, ?)", i, "item " + i);
      update(connection, "update items set t = ? where id = ?", "new " + i, i);
      check("new " + i, one(connection, "select t from items where id = ?", i));
      connection.commit();
    }
    update(connection, "delete from items where id >= ?", 0);
    connection.rollback();
    check((long) REPEATS, one(connection, "select count(*) from items"));
    connection.commit();
    connection.setAutoCommit(true);
  }

  private static void manyStatements(Connection connection) throws SQLException {
    for (int i = 0; i < STATEMENTS; i++) {
      check(2 * i, one(connection, "select ?::int + " + i, i));
    }
    for (int text = 0; text < 20; text++) {
      for (int i = 0; i < REPEATS; i++) {
        check(i * text, one(connection, "select ?::int * " + text, i));
      }
    }
    try (PreparedStatement statement = connection.prepareStatement("select ?::float8, ?::text, ?::timestamptz")) {
      for (int i = 0; i < REPEATS; i++) {
        statement.setDouble(1, i + 0.5);
        statement.setString(2, "text " + i);
        statement.setObject(3, java.time.OffsetDateTime.parse("2026-01-02T03:04:05Z"));
        try (ResultSet rows = statement.executeQuery()) {
          rows.next();
          check(i + 0.5, rows.getDouble(1));
          check("text " + i, rows.getString(2));
          check(1_767_323_045L, rows.getTimestamp(3).getTime() / 1000);
        }
      }
    }
  }

  private static void batches(Connection connection) throws SQLException {
    for (int round = 0; round < 6; round++) {
      try (PreparedStatement statement = connection.prepareStatement("insert into items values (?, ?)")) {
        for (int i = 0; i < 500; i++) {
          statement.setInt(1, 1000 + round * 500 + i);
          statement.setString(2, "batch " + round);
          statement.addBatch();
        }
        check(500, Arrays.stream(statement.executeBatch()).sum());
      }
    }
    for (int round = 0; round < 6; round++) {
      try (PreparedStatement statement = connection.prepareStatement("insert into items values (?, ?)")) {
        for (int id : new int[] {5000, 5001, 1, 5002}) {
          statement.setInt(1, id);
          statement.setString(2, "lost");
          statement.addBatch();
        }
        fails("23505", statement::executeBatch);
      }
      check(0L, one(connection, "select count(*) from items where id >= ?", 5000));
    }
    String insert = "insert into items values (?, ?) returning id";
    try (PreparedStatement statement = connection.prepareStatement(insert, Statement.RETURN_GENERATED_KEYS)) {
      for (int i = 0; i < 100; i++) {
        statement.setInt(1, 5000 + i);
        statement.setString(2, "keyed");
        statement.addBatch();
      }
      statement.executeBatch();
      try (ResultSet keys = statement.getGeneratedKeys()) {
        for (int i = 0; i < 100; i++) {
          keys.next();
          check(5000 + i, keys.getInt(1));
        }
      }
    }
    update(connection, "delete from items where id >= ?", 1000);
  }

  private static void errors(Connection connection) throws SQLException {
    for (int i = 0; i < REPEATS; i++) {
      fails("23505", () -> update(connection, "insert into items values (?, ?)", 1, "twice"));
      fails("42P01", () -> one(connection, "select * from no_such_table where id = ?", 1));
      connection.setAutoCommit(false);
      Savepoint savepoint = connection.setSavepoint();
      fails("22012", () -> one(connection, "select 1 / ?::int", 0));
      fails("25P02", () -> one(connection, "select t from items where id = ?", 1));
      connection.rollback(savepoint);
      check("new 1", one(connection, "select t from items where id = ?", 1));
      fails("23505", () -> update(connection, "insert into items values (?, ?)", 1, "twice"));
      connection.rollback();
      connection.setAutoCommit(true);
    }
  }

  private static void copy(Connection connection) throws Exception {
    CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
    StringBuilder lines = new StringBuilder();
    for (int i = 2000; i < 5000; i++) {
      lines.append(i).append("\tGrüße\n");
    }
    byte[] data = lines.toString().getBytes(UTF_8);
    check(3000L, copy.copyIn("copy items from stdin", new ByteArrayInputStream(data)));
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    copy.copyOut("copy (select * from items where id >= 2000 order by id) to stdout", out);
    check(true, Arrays.equals(data, out.toByteArray()));
    byte[] bad = "1\t2\t3\n".getBytes(UTF_8);
    fails("22P04", () -> copy.copyIn("copy items from stdin", new ByteArrayInputStream(bad)));
    check(3000L, one(connection, "select count(*) from items where id >= ?", 2000));
  }

  private static void cursors(Connection connection) throws SQLException {
    connection.setAutoCommit(false); // fetchSize needs a transaction: its portals are named
    for (int round = 0; round < 6; round++) {
      try (PreparedStatement statement = connection.prepareStatement("select i from generate_series(1, ?) i")) {
        statement.setFetchSize(100);
        statement.setInt(1, 1000);
        try (ResultSet rows = statement.executeQuery()) {
          for (int i = 1; i <= 1000; i++) {
            rows.next();
            check(i, rows.getInt(1));
            if (i == 500) { // a statement between two fetches
              check(round, one(connection, "select ?::int", round));
            }
          }
          check(false, rows.next());
        }
      }
      connection.commit();
    }
    connection.setAutoCommit(true);
  }

  private static void largeValues(Connection connection) throws SQLException {
    try (PreparedStatement statement = connection.prepareStatement("select ?::text, ?::bytea")) {
      for (int i = 0; i < 8; i++) {
        statement.setString(1, LARGE_TEXT);
        statement.setBytes(2, LARGE_BYTES);
        try (ResultSet rows = statement.executeQuery()) {
          rows.next();
          check(LARGE_TEXT, rows.getString(1));
          check(true, Arrays.equals(LARGE_BYTES, rows.getBytes(2)));
        }
      }
    }
  }

  private static void cancel(Connection connection) throws Exception {
    ExecutorService thread = Executors.newSingleThreadExecutor();
    try (Statement statement = connection.createStatement();
        Connection watch = connect()) {
      Future<?> waiting =
          thread.submit(
              () -> {
                fails("57014", () -> statement.execute("select pg_sleep(15) /* pgjdbc waits */"));
                return null;
              });
      String running =
          "select exists (select from pg_stat_activity where state = 'active'"
              + " and position('pgjdbc waits' in query) > 0 and pid <> pg_backend_pid())";
      while (!Boolean.TRUE.equals(one(watch, running))) {
        Thread.onSpinWait();
      }
      statement.cancel();
      waiting.get();
    } finally {
      thread.shutdown();
    }
    check(1, one(connection, "select ?::int", 1));
  }

  private static void timeouts(Connection connection) throws SQLException {
    execute(connection, "set statement_timeout = '80ms'");
    for (int i = 0; i < 2; i++) {
      fails("57014", () -> one(connection, "select pg_sleep(?)", 15.0));
    }
    execute(connection, "reset statement_timeout");
    check("0", one(connection, "show statement_timeout"));
    try (Statement statement = connection.createStatement()) {
      statement.setQueryTimeout(1); // pgjdbc's own: a timer that cancels
      fails("57014", () -> statement.execute("select pg_sleep(15)"));
    }
    try (Connection other = connect("options", "-c statement_timeout=80")) {
      fails("57014", () -> one(other, "select pg_sleep(?)", 15.0));
      check("80ms", one(other, "show statement_timeout"));
    }
  }

  private static void shapes(Connection owner) throws SQLException {
    execute(owner, "drop table if exists shapes");
    execute(owner, "create table shapes (id int primary key, n int)");
    execute(owner, "insert into shapes select i, i * 10 from generate_series(1, 50) i");
  }

  private static final String[][] CHANGES = {
    {"select 1", "[7, 70]"},
    {"alter table shapes add column added text default 'new'", "[7, 70, new]"},
    {"alter table shapes alter column n type float4 using n + 0.5", "[7, 70.5, new]"},
  };

  /** Outside a transaction: no error, never a wrong value. */
  private static void ddl() throws SQLException {
    try (Connection owner = connect();
        Connection reader = connect()) {
      shapes(owner);
      for (String[] change : CHANGES) {
        execute(owner, change[0]);
        for (int i = 0; i < REPEATS; i++) {
          check(change[1], row(reader, "select * from shapes where id = ?", 7).toString());
          check(change[1].split("[\\[\\], ]+")[2], row(reader, "select n from shapes where id = ?", 7).get(0).toString());
        }
      }
    }
  }

  /** Inside a transaction the application sees the error, once for each statement. */
  private static void ddlInTransactions() throws SQLException {
    try (Connection owner = connect();
        Connection reader = connect()) {
      shapes(owner);
      reader.setAutoCommit(false);
      for (String[] change : CHANGES) {
        execute(owner, change[0]);
        int stale = 0;
        for (int i = 0; i < REPEATS; i++) {
          try {
            check(change[1], row(reader, "select * from shapes where id = ?", 7).toString());
            reader.commit();
          } catch (SQLException error) {
            check("0A000", error.getSQLState());
            check(1, ++stale);
            reader.rollback();
          }
        }
      }
    }
  }

  private static void notifications() throws SQLException {
    try (Connection listener = connect();
        Connection sender = connect()) {
      execute(listener, "listen news");
      check("", one(sender, "select pg_notify(?, ?)::text", "news", "first"));
      execute(sender, "notify elsewhere, 'unheard'");
      execute(sender, "notify news, 'second'");
      execute(listener, "notify news, 'own'");
      List<String> heard = new ArrayList<>();
      long deadline = System.nanoTime() + 20_000_000_000L;
      while (heard.size() < 3 && System.nanoTime() < deadline) {
        for (PGNotification each : listener.unwrap(PGConnection.class).getNotifications(1000)) {
          heard.add(each.getName() + " " + each.getParameter());
        }
      }
      check(List.of("news first", "news second", "news own"), heard);
      execute(listener, "unlisten news");
    }
  }

  private static void manyClients() throws Exception {
    try (Connection connection = connect()) {
      execute(connection, "create table work (client int, n int)");
    }
    ExecutorService threads = Executors.newFixedThreadPool(CLIENTS);
    try {
      List<Callable<Void>> all = new ArrayList<>();
      for (int client = 0; client < CLIENTS; client++) {
        int index = client;
        all.add(
            () -> {
              work(index);
              return null;
            });
      }
      for (Future<Void> done : threads.invokeAll(all)) {
        done.get();
      }
    } finally {
      threads.shutdown();
    }
  }

  private static void work(int index) throws SQLException {
    try (Connection connection = connect()) {
      connection.setAutoCommit(false);
      for (int i = 0; i < 2 * ROUNDS; i++) { // past the threshold
        update(connection, "insert into work values (?, ?)", index, i);
        check(i + 1L, one(connection, "select count(*) from work where client = ?", index));
        connection.commit();
        check("client " + index, one(connection, "select 'client " + index + "' where ? >= 0", i));
        connection.commit();
      }
    }
  }

  // --- what the cases are made of

  private static Connection connect(String... more) throws SQLException {
    Properties properties = new Properties();
    properties.setProperty("user", System.getenv("PGUSER"));
    properties.setProperty("password", System.getenv("PGPASSWORD"));
    for (int i = 0; i < more.length; i += 2) {
      properties.setProperty(more[i], more[i + 1]);
    }
    return DriverManager.getConnection(URL, properties);
  }

  private static void execute(Connection connection, String sql) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      statement.execute(sql);
    }
  }

  private static void update(Connection connection, String sql, Object... values) throws SQLException {
    try (PreparedStatement statement = prepared(connection, sql, values)) {
      statement.executeUpdate();
    }
  }

  private static Object one(Connection connection, String sql, Object... values) throws SQLException {
    return row(connection, sql, values).get(0);
  }

  private static List<Object> row(Connection connection, String sql, Object... values) throws SQLException {
    try (PreparedStatement statement = prepared(connection, sql, values);
        ResultSet rows = statement.executeQuery()) {
      rows.next();
      List<Object> found = new ArrayList<>();
      for (int i = 1; i <= rows.getMetaData().getColumnCount(); i++) {
        found.add(rows.getObject(i));
      }
      return found;
    }
  }

  private static PreparedStatement prepared(Connection connection, String sql, Object... values) throws SQLException {
    PreparedStatement statement = connection.prepareStatement(sql);
    for (int i = 0; i < values.length; i++) {
      statement.setObject(i + 1, values[i]);
    }
    return statement;
  }

  private static void check(Object expected, Object found) {
    if (!expected.equals(found)) {
      throw new AssertionError(WHERE + ": " + found + " instead of " + expected);
    }
  }

  private static void fails(String sqlState, Work work) {
    try {
      work.run();
    } catch (BatchUpdateException error) {
      check(sqlState, error.getNextException().getSQLState());
      return;
    } catch (SQLException error) {
      check(sqlState, error.getSQLState());
      return;
    } catch (Exception error) {
      throw new AssertionError(error);
    }
    throw new AssertionError(WHERE + ": no error " + sqlState);
  }
}
