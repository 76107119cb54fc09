import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.Socket;
import java.nio.channels.ServerSocketChannel;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

import static java.nio.charset.StandardCharsets.US_ASCII;

/**
 * A server that takes its listening socket from whoever started it. Java knows one
 * way to inherit a socket, and that is standard input (System.inheritedChannel);
 * com.sun.net.httpserver cannot be given one, nor can most frameworks.
 */
public class Server {
    static final String GENERATION = System.getenv().getOrDefault("BATON_GENERATION", "");

    public static void main(String[] args) throws IOException {
        if (!(System.inheritedChannel() instanceof ServerSocketChannel listener)) {
            throw new IOException("standard input is not a listening socket");
        }
        ExecutorService workers = Executors.newFixedThreadPool(16);
        Thread acceptor = Thread.currentThread();

        // TERM: accept no more, finish what there is. The order matters: only when the
        // acceptor has ended has all that it accepted been given to the workers.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                listener.close(); // and Java points standard output at /dev/null with it
                acceptor.join();
                workers.shutdown();
                workers.awaitTermination(25, TimeUnit.SECONDS);
            } catch (IOException | InterruptedException e) {
                e.printStackTrace();
            }
        }));

        try {
            while (true) {
                Socket connection = listener.accept().socket();
                workers.execute(() -> serve(connection));
            }
        } catch (java.nio.channels.ClosedChannelException e) {
            // by the hook above
        }
    }

    static void serve(Socket connection) {
        try (connection) {
            var in = new BufferedReader(new InputStreamReader(connection.getInputStream(), US_ASCII));
            String request = in.readLine();
            for (String line = request; line != null && !line.isEmpty(); line = in.readLine()) {
                // the headers say nothing that this server wants to know
            }
            if (request == null) {
                return; // closed without a request
            }
            if (request.startsWith("GET /slow")) {
                Thread.sleep(300);
            }
            String body = "hello from java\n";
            connection.getOutputStream().write(("HTTP/1.1 200 OK\r\n"
                    + "Content-Type: text/plain\r\n"
                    + "Content-Length: " + body.length() + "\r\n"
                    + "X-Generation: " + GENERATION + "\r\n"
                    + "Connection: close\r\n\r\n" + body).getBytes(US_ASCII));
        } catch (IOException | InterruptedException e) {
            // the client went away
        }
    }
}
