// SPDX-License-Identifier: Apache-2.0
// Four threads count and share; garbage is made on the way.
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;

public class Count {
    public static void main(String[] args) throws Exception {
        final int rounds = Integer.parseInt(args[0]);
        final AtomicLong shared = new AtomicLong();
        final long[] sums = new long[4];
        final List<Thread> threads = new ArrayList<>();
        for (int t = 0; t < 4; t++) {
            final int number = t;
            final Thread thread = new Thread(() -> {
                long sum = number;
                for (int i = 0; i < rounds; i++) {
                    sum = sum * 6364136223846793005L + 1442695040888963407L;
                    if (i % 1000 == 0) {
                        sum += new StringBuilder().append(sum).reverse().toString().hashCode();
                        shared.incrementAndGet();
                    }
                    if (number == 0 && i % (rounds / 10) == 0) System.out.println("at " + i);
                }
                sums[number] = sum;
            });
            threads.add(thread);
            thread.start();
        }
        for (final Thread thread : threads) thread.join();
        for (final long sum : sums) System.out.println(sum);
        System.out.println("shared " + shared.get());
    }
}
