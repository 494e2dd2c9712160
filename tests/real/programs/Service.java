// SPDX-License-Identifier: Apache-2.0
import com.sun.net.httpserver.HttpServer;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** An HTTP server with a pool of threads, a timer and a child that echoes. Argument: its port. */
public class Service {
  public static void main(String[] args) throws Exception {
    AtomicLong visitors = new AtomicLong();
    AtomicLong ticks = new AtomicLong();
    var timer = Executors.newScheduledThreadPool(1);
    timer.scheduleAtFixedRate(ticks::incrementAndGet, 20, 20, TimeUnit.MILLISECONDS);
    Process child = new ProcessBuilder("cat").start();
    var toChild = new PrintWriter(child.getOutputStream(), true);
    var fromChild = new BufferedReader(new InputStreamReader(child.getInputStream()));
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 5);
    var pool = Executors.newFixedThreadPool(4);
    server.setExecutor(pool);
    server.createContext("/", exchange -> {
      long visitor = visitors.incrementAndGet();
      String echo;
      synchronized (child) {
        toChild.println("visitor " + visitor);
        echo = fromChild.readLine();
      }
      byte[] answer = (echo + " " + ticks.get()).getBytes();
      exchange.getResponseHeaders().set("Connection", "close");
      exchange.sendResponseHeaders(200, answer.length);
      exchange.getResponseBody().write(answer);
      exchange.close();
      if (exchange.getRequestURI().getPath().equals("/end")) {
        child.destroy();
        System.exit((int) visitor);
      }
    });
    server.start();
  }
}
